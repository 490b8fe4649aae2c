"""The registrar's decisions against a client that forges, replays, mixes and changes; with YubiKeys."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Any

import pytest
from asn1crypto.csr import CertificationRequest
from asn1crypto.keys import PublicKeyInfo
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

import certs
from attestation import piv_chains
from attestation.chips import changed
from attestation.piv_chains import FIRMWARE, NOW, OLD_ROOT, YUBIKEY, Chain, answered, new_chain, old_chain, slot_of
from enrolment.registrar.sites import (
    SERIAL,
    SUBJECT,
    Issuer,
    Site,
    body,
    certificate_body,
    challenged,
    names,
    request,
    statement,
    yubikey,
)
from examples import scaled
from hwsigner.attestation import Trust
from hwsigner.attestation.chain import VendorCertificate
from hwsigner.attestation.documents import new
from hwsigner.enrolment import issuers
from hwsigner.enrolment.registrar.registrar import RefusedRequest, Registrar
from hwsigner.enrolment.registrar.sealing import LIFE_SECONDS, rotate_keys
from hwsigner.errors import CertificateError, HwsignerError, ServiceError, ServiceUnreachableError, UsageError

CLIENT = "192.0.2.1"


def refused(do: Callable[[], object], site: Site) -> RefusedRequest:
    """Do something that the registrar must refuse, without asking the issuer; return the refusal."""
    before, count = len(site.audit), len(site.issuer.requests)
    with pytest.raises(RefusedRequest) as caught:
        do()
    assert len(site.issuer.requests) == count
    assert [facts["decision"] for facts in site.audit[before:]] == ["refused"]
    assert site.audit[-1]["client"] == CLIENT
    return caught.value


def certify(registrar: Registrar, **members: Any) -> Callable[[], object]:
    return lambda: registrar.certify(body(**members), CLIENT)


def challenge(registrar: Registrar, document: Any) -> Callable[[], object]:
    return lambda: registrar.challenge(body(statement=document), CLIENT)


def test_key_in_a_known_chip_gets_the_certificate_that_it_asks_for(site: Site, chain: Chain) -> None:
    registrar, given = site.registrar(), statement(chain)
    reply = registrar.certify(body(**certificate_body(registrar, chain, given)), CLIENT)
    leaf = x509.load_der_x509_certificate(base64.b64decode(reply["certificates"][0]))
    assert leaf.public_key() == chain.slot.key.public_key()
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "web-01"
    assert site.issuer.requests == [given.blob("certificateRequest")]
    assert site.decisions == ["challenged", "proven", "issued"]


def test_line_is_short_whatever_a_statement_has(site: Site, chain: Chain) -> None:
    """The journal splits lines of more than 48 KiB, so that a client could make up the begin of one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "\x1b" * 60)] * 14)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, certs.ago(1), certs.ago(-1))
    der = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    given = changed(statement(chain), slotCertificate=der, attestationCertificate=der)
    refusal = refused(challenge(site.registrar(), given), site)
    assert "the certificate of Common Name" in refusal.message
    assert len(json.dumps(site.audit[-1])) < 4096


def test_audit_lines_name_the_machine_and_no_more_of_its_chip(site: Site, chain: Chain) -> None:
    registrar = site.registrar()
    members = certificate_body(registrar, chain, statement(chain))
    registrar.certify(body(**members), CLIENT)
    assert [facts["machine"] for facts in site.audit] == ["web-01"] * 3
    assert [facts["chip"] for facts in site.audit] == [SERIAL] * 3
    allowed = {"client", "decision", "machine", "chip", "request", "subject", "warnings", "certificates"}
    allowed |= {"serial", "expires"}
    assert {name for facts in site.audit for name in facts} == allowed
    assert members["state"] not in json.dumps(site.audit)


# What the policy does not allow


def test_chip_that_the_policy_does_not_name_is_refused_whatever_its_vendor_says(site: Site, chain: Chain) -> None:
    site.allow(yubikey(chain, "1"))
    refusal = refused(challenge(site.registrar(), statement(chain)), site)
    assert refusal.status == HTTPStatus.FORBIDDEN
    assert site.audit[-1]["reason"] == f"{refusal.message}: the policy does not name this chip"


@pytest.mark.parametrize("what", ["another name", "another key", "another root", "both"])
def test_refusal_does_not_tell_whether_the_policy_names_a_chip(what: str, site: Site, chain: Chain) -> None:
    other = old_chain()
    site.trust = Trust(chain.trust.roots + other.trust.roots, chain.trust.now)
    given = {
        "another name": statement(chain, request(chain.slot.key, "CN=web-02")),
        "another key": statement(chain, request(other.slot.key)),
        "another root": statement(other),
        "both": statement(other, request(other.slot.key, "CN=web-02")),
    }[what]
    answers, calls = [], []
    for machine in (yubikey(chain), yubikey(chain, "1")):
        site.allow(machine)
        registrar = site.registrar()
        refusal = refused(challenge(registrar, given), site)
        answers.append((refusal.status, refusal.message, refusal.hint))
        calls.append(calls_of(partial(refused, challenge(registrar, given), site)))
    assert answers[0] == answers[1]
    # Nor does the time: the same work is done. Names that are right cost a little more, as all of them are compared.
    share = 20 if what == "another root" else 200
    assert abs(calls[0].total() - calls[1].total()) < calls[0].total() / share
    assert calls[0]["verifies"] == calls[1]["verifies"] > 0


def calls_of(do: Callable[[], object]) -> Counter[str]:
    """Return how often each function was called, by its name."""
    found: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, _: found.update([frame.f_code.co_name] if event == "call" else ()))
    try:
        do()
    finally:
        sys.setprofile(None)
    return found


def test_serial_number_counts_only_under_the_root_of_the_policy(site: Site, chain: Chain) -> None:
    other = old_chain()
    site.trust = Trust(chain.trust.roots + other.trust.roots, chain.trust.now)
    registrar = site.registrar()
    assert registrar.challenge(body(statement=statement(chain)), CLIENT)
    refused(challenge(registrar, statement(other)), site)
    assert "the root that the policy names did not certify this chip" in str(site.audit[-1]["reason"])


def test_renewal_of_the_root_in_the_policy_is_enough(site: Site, chain: Chain) -> None:
    days = timedelta(days=1)
    old = chain.root.issue(OLD_ROOT, chain.root.key, ca=True, begin=NOW - 2 * days, end=NOW - days)
    fresh, stale = (VendorCertificate.read(one.der, "root") for one in (chain.root, old))
    site.allow(yubikey(chain.but(root=old)))
    for roots in ((fresh, stale), (stale, fresh)):
        site.trust = Trust(roots, NOW)
        registrar = site.registrar()
        assert registrar.certify(body(**certificate_body(registrar, chain, statement(chain))), CLIENT)
    site.trust = Trust((fresh,), NOW)  # Without the one in the policy, nothing tells that this is its renewal.
    refused(challenge(site.registrar(), statement(chain)), site)


def test_root_of_a_chain_with_intermediates_is_enough(site: Site) -> None:
    modern = new_chain()
    site.trust = modern.trust
    site.allow(yubikey(modern))
    registrar = site.registrar()
    assert registrar.certify(body(**certificate_body(registrar, modern, statement(modern))), CLIENT)


OTHER_REQUESTS = {
    "another subject": ("CN=web-02,OU=web", ()),
    "a subject with one part more": (f"{SUBJECT},O=Example", ()),
    "a subject with one part less": ("CN=web-01", ()),
    "a subject in another order": ("OU=web,CN=web-01", ()),
    "another DNS name": (SUBJECT, (names(x509.DNSName("web-02.example.com")),)),
    "an IP address": (SUBJECT, (names(x509.IPAddress(IPv4Address(CLIENT))),)),
    "names in another order": (SUBJECT, (x509.SubjectAlternativeName(list(names())[::-1]),)),
    "fewer names": (SUBJECT, (x509.SubjectAlternativeName(list(names())[:1]),)),
    "no alternative names": (SUBJECT, (x509.BasicConstraints(False, None),)),
    "a CA": (SUBJECT, (names(), x509.BasicConstraints(True, None))),
    "signing certificates": (SUBJECT, (names(), certs._usage(certs.Shape(is_ca=True)))),
    "server authentication": (SUBJECT, (names(), x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]))),
    "two usages": (SUBJECT, (names(), x509.ExtendedKeyUsage([x509.OID_CLIENT_AUTH, x509.OID_SERVER_AUTH]))),
    "no check of OCSP": (SUBJECT, (names(), x509.OCSPNoCheck())),
    "an unknown extension": (SUBJECT, (names(), x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"))),
}


@pytest.mark.parametrize("what", OTHER_REQUESTS)
def test_request_for_anything_else_is_refused(what: str, site: Site, chain: Chain) -> None:
    subject, extensions = OTHER_REQUESTS[what]
    given = statement(chain, request(chain.slot.key, subject, *extensions))
    assert refused(challenge(site.registrar(), given), site).status == HTTPStatus.FORBIDDEN
    assert site.audit[-1]["machine"] == "web-01"


def test_request_with_another_attribute_is_refused(site: Site, chain: Chain) -> None:
    given = statement(chain, request(chain.slot.key, SUBJECT, names(), attribute=True))
    refused(challenge(site.registrar(), given), site)
    assert "another attribute" in str(site.audit[-1]["reason"])


def test_request_for_harmless_extensions_is_allowed(site: Site, chain: Chain) -> None:
    usages = (x509.BasicConstraints(False, None), certs._usage(certs.LEAF))
    client = x509.ExtendedKeyUsage([x509.OID_CLIENT_AUTH])
    given = statement(chain, request(chain.slot.key, SUBJECT, *usages, client, names()))
    assert site.registrar().challenge(body(statement=given), CLIENT)


@pytest.mark.parametrize("how", ["compressed", "explicit"])
def test_request_with_its_key_in_another_form_is_refused(how: str, site: Site, chain: Chain) -> None:
    """The issuer would put that form into the certificate, and others may read another key from it."""
    key = chain.slot.key
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    flags = {"compressed": ["-ec_conv_form", "compressed"], "explicit": ["-ec_param_enc", "explicit"]}[how]
    form = subprocess.run(
        ["openssl", "pkey", "-pubout", "-outform", "DER", *flags], input=pem, check=True, stdout=subprocess.PIPE
    ).stdout
    parsed = CertificationRequest.load(request(key))
    info = parsed["certification_request_info"]
    info["subject_pk_info"] = PublicKeyInfo.load(form)
    parsed["signature"] = key.sign(info.dump(), ec.ECDSA(SHA256()))
    assert x509.load_der_x509_csr(parsed.dump()).is_signature_valid
    refused(challenge(site.registrar(), statement(chain, parsed.dump())), site)
    assert "key or an extension in another form" in str(site.audit[-1]["reason"])


def test_request_of_another_key_is_refused(site: Site, chain: Chain) -> None:
    given = statement(chain, request(ec.generate_private_key(ec.SECP256R1())))
    assert "signed by its key" in refused(challenge(site.registrar(), given), site).message


def test_statement_without_a_request_is_refused(site: Site, chain: Chain) -> None:
    assert "signed by its key" in refused(challenge(site.registrar(), chain.statement), site).message


def test_policy_that_changes_between_challenge_and_answer_counts(site: Site, chain: Chain) -> None:
    registrar = site.registrar()
    members = certificate_body(registrar, chain, statement(chain))
    site.allow()
    assert refused(certify(registrar, **members), site).status == HTTPStatus.FORBIDDEN


def test_token_that_proves_nothing_is_refused(site: Site) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    given = new("statement", "pkcs11", {"keyPublic": der, "token": "x", "certificateRequest": request(key)})
    assert refused(challenge(site.registrar(), given), site).status == HTTPStatus.FORBIDDEN


def test_key_that_can_be_computed_is_refused(site: Site, chain: Chain) -> None:
    weak = slot_of(chain.f9, {**YUBIKEY, FIRMWARE: b"\4\3\1"}, key=rsa.generate_private_key(65537, 2048))
    roca = chain.but(slot=weak)
    registrar = site.registrar()
    members = certificate_body(registrar, roca, statement(roca))
    message = "it is not proven that the request's key is in hardware"
    assert refused(certify(registrar, **members), site).message == message


# Forged, replayed, mixed, expired, truncated


def test_forged_statement_is_refused(site: Site, chain: Chain) -> None:
    forger = piv_chains.Issued(chain.f9.common_name)
    forged = chain.but(f9=forger, slot=slot_of(forger))
    forged.f9.der = chain.f9.der
    assert "did not issue" in refused(challenge(site.registrar(), statement(forged)), site).message


def test_replay_gives_a_certificate_for_the_same_request_only(site: Site, chain: Chain) -> None:
    registrar = site.registrar()
    members = certificate_body(registrar, chain, statement(chain))
    for _ in range(2):
        registrar.certify(body(**members), CLIENT)
    assert len(set(site.issuer.requests)) == 1
    other = statement(chain, request(chain.slot.key))  # The same names; ECDSA signs differently each time.
    message = refused(certify(registrar, **{**members, "statement": other}), site).message
    assert message == "the state is of the challenge to another statement"


def test_answer_to_another_challenge_is_refused(site: Site, chain: Chain) -> None:
    registrar, given = site.registrar(), statement(chain)
    first, second = (certificate_body(registrar, chain, given) for _ in range(2))
    mixed = {**first, "answer": second["answer"]}
    assert refused(certify(registrar, **mixed), site).message == "the answer is to another challenge"


def test_answer_of_another_key_is_refused(site: Site, chain: Chain) -> None:
    registrar, given = site.registrar(), statement(chain)
    asked, state = challenged(registrar, given)
    thief = answered(asked, ec.generate_private_key(ec.SECP256R1()))
    assert "did not sign" in refused(certify(registrar, statement=given, state=state, answer=thief), site).message


def test_challenge_is_too_old_after_its_life(site: Site, chain: Chain) -> None:
    site.now = 1_800_000_000.0
    registrar = site.registrar()
    members = certificate_body(registrar, chain, statement(chain))
    site.now += LIFE_SECONDS + 1
    refusal = refused(certify(registrar, **members), site)
    assert (refusal.status, refusal.message) == (HTTPStatus.CONFLICT, "the challenge is too old")


def test_state_of_a_stranger_is_refused(site: Site, chain: Chain) -> None:
    members = certificate_body(site.registrar(), chain, statement(chain))
    rotate_keys(str(site.keys))
    rotate_keys(str(site.keys))
    refusal = refused(certify(site.registrar(), **members), site)
    assert (refusal.status, refusal.message) == (
        HTTPStatus.CONFLICT,
        "the state was sealed with a key that is not valid here",
    )


def test_second_registrar_accepts_the_state_of_the_first_before_and_after_a_rotation(site: Site, chain: Chain) -> None:
    first, second = site.registrar(), site.registrar()
    members = certificate_body(first, chain, statement(chain))
    assert second.certify(body(**members), CLIENT)
    rotate_keys(str(site.keys))
    assert second.certify(body(**members), CLIENT)
    assert first.certify(body(**certificate_body(second, chain, statement(chain))), CLIENT)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"{}", b"\xff", b'{"statement": 1}'),
        *(b'{"statement": {}, "more": 1}', b'{"statement": {}, "statement": {}}'),
        *(b"[" * 100_000, b'{"statement": ' + b"[" * 100_000),
        *(b'{"statement": ' + b"[" * depth + b"]" * depth + b"}" for depth in (100, 900, 990, 1000, 2000, 20_000)),
    ],
)
def test_body_that_is_not_a_statement_is_refused(data: bytes, site: Site) -> None:
    status = refused(lambda: site.registrar().challenge(data, CLIENT), site).status
    assert status in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)


@pytest.mark.parametrize("member", ["statement", "state", "answer"])
@pytest.mark.parametrize("value", [None, 1, "", "x", [], {}, "=", ["x"]])
def test_member_of_the_wrong_type_is_refused(member: str, value: Any, site: Site, chain: Chain) -> None:
    registrar = site.registrar()
    members = {**certificate_body(registrar, chain, statement(chain)), member: value}
    status = refused(certify(registrar, **members), site).status
    assert status in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN)


@pytest.fixture(scope="module")
def whole(chain: Chain, ca: certs.Authority, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Registrar, bytes]:
    """A registrar, and a request that it would answer with a certificate."""
    site = Site(tmp_path_factory.mktemp("site"), chain.trust, Issuer(ca))
    site.allow(yubikey(chain))
    registrar = site.registrar()
    return site, registrar, body(**certificate_body(registrar, chain, statement(chain)))


@pytest.mark.parametrize("how", ["truncated", "changed"])
def test_no_damage_yields_a_certificate(how: str, whole: tuple[Site, Registrar, bytes]) -> None:
    site, registrar, good = whole

    @settings(max_examples=scaled(150))
    @given(st.integers(0, len(good) - 1), st.integers(1, 255))
    def check(position: int, mask: int) -> None:
        byte = bytes([good[position] ^ mask])
        bad = good[:position] if how == "truncated" else good[:position] + byte + good[position + 1 :]
        if how == "changed" and _same(bad, good):
            return  # Whitespace, or an escape of the same character.
        refused(lambda: registrar.certify(bad, CLIENT), site)

    check()


@pytest.mark.parametrize("name", ["slotCertificate", "attestationCertificate", "certificateRequest"])
def test_no_damage_to_a_structure_is_a_fault_of_our_own(
    name: str, whole: tuple[Site, Registrar, bytes], chain: Chain
) -> None:
    site, registrar, _ = whole
    given_statement = statement(chain)
    good = given_statement.blob(name)

    @settings(max_examples=scaled(150))
    @given(st.integers(0, len(good) - 1), st.binary(max_size=3), st.integers(0, 3))
    def check(position: int, new_bytes: bytes, removed: int) -> None:
        bad = good[:position] + new_bytes + good[position + removed :]
        if bad != good:
            refused(challenge(registrar, changed(given_statement, **{name: bad})), site)

    check()


def _same(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


# The issuer


def not_issued(site: Site, chain: Chain) -> RefusedRequest:
    """Send a right answer to a registrar whose issuer gives no certificate, and return the refusal."""
    registrar = site.registrar()
    with pytest.raises(RefusedRequest) as caught:
        registrar.certify(body(**certificate_body(registrar, chain, statement(chain))), CLIENT)
    return caught.value


@pytest.mark.parametrize(
    ("error", "status", "waits"),
    [
        (ServiceUnreachableError("no answer"), HTTPStatus.BAD_GATEWAY, True),
        (ServiceError("busy", retryable=True, retry_after=7), HTTPStatus.BAD_GATEWAY, True),
        (UsageError("no such role"), HTTPStatus.BAD_GATEWAY, False),
        (CertificateError("no certificates"), HTTPStatus.BAD_GATEWAY, False),
    ],
)
def test_error_of_the_issuer_goes_into_the_log_alone(
    error: HwsignerError, status: HTTPStatus, waits: bool, site: Site, chain: Chain
) -> None:
    site.issuer.instead = error
    refusal = not_issued(site, chain)
    assert (refusal.status, bool(refusal.retry_after)) == (status, waits)
    assert error.message not in refusal.message + refusal.hint
    assert error.message in str(site.audit[-1]["reason"])
    assert site.decisions == ["challenged", "proven", "not issued"]


def test_client_is_asked_to_wait_for_an_issuer_that_is_not_done(site: Site, chain: Chain) -> None:
    site.issuer.instead = issuers.Pending(30)
    refusal = not_issued(site, chain)
    assert (refusal.status, refusal.retry_after) == (HTTPStatus.SERVICE_UNAVAILABLE, 30)


def test_certificate_for_another_name_is_not_passed_on(site: Site, chain: Chain) -> None:
    wrong = certs.issue(site.issuer.ca, chain.slot.key.public_key(), certs.Shape("admin"))
    site.issuer.instead = issuers.Issued((wrong.public_bytes(Encoding.DER),))
    refusal = not_issued(site, chain)
    assert refusal.status == HTTPStatus.BAD_GATEWAY
    assert "another subject" in str(site.audit[-1]["reason"])


def test_nothing_is_issued_if_the_audit_line_can_not_be_written(site: Site, chain: Chain) -> None:
    members = certificate_body(site.registrar(), chain, statement(chain))

    def full(facts: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        site.registrar(full).certify(body(**members), CLIENT)
    assert site.issuer.requests == []


# The files


def test_policy_is_read_again_when_it_changes(site: Site, chain: Chain) -> None:
    registrar, given = site.registrar(), statement(chain)
    site.allow()
    refused(challenge(registrar, given), site)
    site.allow(yubikey(chain))
    assert registrar.challenge(body(statement=given), CLIENT)


@pytest.mark.parametrize("bad", ["[machine", "[machine.web-01]\ntpm = 'x'\n", "more = 1\n"])
def test_bad_policy_leaves_the_old_one_in_use_and_is_reported_once(bad: str, site: Site, chain: Chain) -> None:
    registrar = site.registrar()
    site.policy.write_text(bad)
    for _ in range(2):
        assert registrar.challenge(body(statement=statement(chain)), CLIENT)
    assert len(site.errors) == 1
    assert str(site.policy) in site.errors[0].message


def test_missing_policy_leaves_the_old_one_in_use(site: Site, chain: Chain) -> None:
    registrar = site.registrar()
    site.policy.unlink()
    assert registrar.challenge(body(statement=statement(chain)), CLIENT)
    assert "can't read" in site.errors[0].message


def test_roots_that_are_not_trusted_any_more_end_a_renewal(site: Site, chain: Chain) -> None:
    registrar = site.registrar()
    assert registrar.challenge(body(statement=statement(chain)), CLIENT)
    site.trust = Trust((VendorCertificate.read(old_chain().root.der, "x"),), chain.trust.now)
    refused(challenge(site.registrar(), statement(chain)), site)


def test_changed_statement_is_refused(site: Site, chain: Chain) -> None:
    registrar = site.registrar()
    members = certificate_body(registrar, chain, statement(chain))
    other = changed(members["statement"], slotCertificate=slot_of(chain.f9).der)
    refused(certify(registrar, **{**members, "statement": other}), site)
