"""The registrar with real chips: swtpm TPMs and emulated YubiKeys, which make the statements and answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import certs
from attestation.chips import Chip, changed
from enrolment.registrar.sites import SUBJECT, Issuer, Site, body, challenged, enrolled, tpm, url
from examples import scaled
from hwsigner import attestation
from hwsigner._identity.certificate_request import CertificateRequest, sign_certificate_request
from hwsigner.attestation import Document
from hwsigner.enrolment.registrar.policy import YUBIKEY, Machine
from hwsigner.enrolment.registrar.registrar import RefusedRequest
from hwsigner.errors import AttestationError, ServiceError, SigningKeyError
from hwsigner.key import open_key
from softhsm.yubikey import YKCS11, YubiKey

CLIENT = "192.0.2.1"


def asked(key: str, subject: str = SUBJECT, pin: str | None = None) -> CertificateRequest:
    with open_key(key, pin) as opened:
        return sign_certificate_request(opened, subject)


def ek(chip: Chip) -> str:
    return hashlib.sha256(attestation.endorsement_key(chip.key)).hexdigest()


def statement(chip: Chip, request: CertificateRequest) -> Document:
    return attestation.make_statement(chip.key, csr=request.der)


@pytest.fixture
def site(chip: Chip, ca: certs.Authority, tmp_path: Path) -> Site:
    """A registrar that knows a TPM."""
    site = Site(tmp_path, chip.trust, Issuer(ca))
    site.allow(tpm(ek(chip)))
    return site


def test_tpm_gets_its_certificate_and_each_renewal_is_attested_again(site: Site, chip: Chip) -> None:
    request = asked(chip.key)
    with site.serving() as server:
        leaf = enrolled(url(server), chip.key, request)
        assert leaf.public_key() == request.x509.public_key()
        assert enrolled(url(server), chip.key, asked(chip.key)).serial_number != leaf.serial_number
        site.allow()  # The machine was taken out.
        with pytest.raises(ServiceError, match="does not give this chip"):
            enrolled(url(server), chip.key, request)
    assert site.decisions == [*(["challenged", "proven", "issued"] * 2), "refused"]
    assert {facts["chip"] for facts in site.audit if facts["decision"] != "received"} == {ek(chip)}


def test_tpm_of_a_known_vendor_that_the_policy_does_not_name_is_refused(
    site: Site, chips: tuple[Chip, Chip, Chip]
) -> None:
    for other in chips[1:]:
        with pytest.raises(RefusedRequest):
            site.registrar().challenge(body(statement=statement(other, asked(other.key))), CLIENT)
    assert site.issuer.requests == []


def test_known_endorsement_key_does_not_help_another_chip(site: Site, chips: tuple[Chip, Chip, Chip]) -> None:
    good, thief, _ = chips
    registrar = site.registrar()
    stolen = statement(good, asked(good.key))
    own = statement(thief, asked(thief.key))
    mixed = changed(own, **{name: stolen.values[name] for name in ("ekPublic", "ekCertificates")})
    given, state = challenged(registrar, mixed)  # Nothing is wrong with it yet.
    with pytest.raises((AttestationError, SigningKeyError)):
        attestation.answer_challenge(thief.key, given)  # Its chip can't open the secret.
    for answer in (
        attestation.answer_challenge(thief.key, challenge_of(thief, own)),
        attestation.answer_challenge(good.key, challenge_of(good, stolen)),
    ):
        forged = changed(answer, nonce=given.blob("nonce"))
        with pytest.raises(RefusedRequest, match="does not have the challenge's secret"):
            registrar.certify(body(statement=mixed, state=state, answer=forged), CLIENT)
    assert site.issuer.requests == []


def challenge_of(chip: Chip, given: Document) -> Document:
    return attestation.challenge(given, chip.trust)[0]


def test_answer_with_any_part_of_another_one_is_refused(site: Site, chip: Chip) -> None:
    registrar, given = site.registrar(), statement(chip, asked(chip.key))
    answers = []
    for _ in range(2):
        asked_for, state = challenged(registrar, given)
        answers.append(attestation.answer_challenge(chip.key, asked_for))
    for name in answers[1].values:
        mixed = changed(answers[1], **{name: answers[0].values[name]})
        with pytest.raises(RefusedRequest):
            registrar.certify(body(statement=given, state=state, answer=mixed), CLIENT)
    assert site.issuer.requests == []
    assert registrar.certify(body(statement=given, state=state, answer=answers[1]), CLIENT)


def test_yubikey_gets_its_certificate(yubikey: YubiKey, ca: certs.Authority, tmp_path: Path) -> None:
    yubikey.generate(0x9A, pin_policy=2)
    yubikey.self_sign(0x9A, "bamboo")
    roots = tmp_path / "roots"
    roots.mkdir()
    (roots / "root.pem").write_text(yubikey.attestation_root)
    site = Site(tmp_path, attestation.read_trust(str(roots)), Issuer(ca))
    key = yubikey.uri(0x9A, YKCS11)
    request = asked(key, pin=yubikey.pin)
    root = hashlib.sha256(site.trust.roots[0].der).hexdigest()
    site.allow(Machine("web-01", YUBIKEY, str(yubikey.serial), root, SUBJECT))
    with site.serving() as server:
        leaf = enrolled(url(server), key, request, pin=yubikey.pin)
    assert leaf.public_key() == request.x509.public_key()
    assert site.decisions == ["challenged", "proven", "issued"]


@pytest.mark.parametrize("name", ["keyPublic", "akPublic", "ekPublic", "ekCertificates"])
def test_no_damage_to_a_tpms_structure_is_a_fault_of_our_own(
    name: str, chip: Chip, ca: certs.Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = Site(tmp_path_factory.mktemp("site"), chip.trust, Issuer(ca))
    site.allow(tpm(ek(chip)))
    registrar, given_statement = site.registrar(), statement(chip, asked(chip.key))
    value = given_statement.values[name]
    good = value[0] if isinstance(value, tuple) else value
    assert isinstance(good, bytes)

    @settings(max_examples=scaled(100))
    @given(st.integers(0, len(good) - 1), st.binary(max_size=3), st.integers(0, 3))
    def check(position: int, new_bytes: bytes, removed: int) -> None:
        bad = good[:position] + new_bytes + good[position + removed :]
        if bad == good:
            return
        forged = changed(given_statement, **{name: (bad, *value[1:]) if isinstance(value, tuple) else bad})
        try:
            challenged(registrar, forged)  # It may be given: a key with another name has no answer.
        except RefusedRequest:
            assert site.decisions[-1] == "refused"

    check()
