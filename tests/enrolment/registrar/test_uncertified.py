"""TPMs without a vendor's certificate, as in clouds: the administrator certifies the endorsement key in the policy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

import certs
from attestation.chips import Chip, changed
from enrolment.registrar.sites import SUBJECT, Issuer, Site, body, challenged, enrolled, sha256, tpm, url
from enrolment.registrar.test_hardware import asked, ek, statement
from enrolment.registrar.test_registrar import calls_of
from hwsigner import attestation
from hwsigner._cli import main
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.attestation import Trust
from hwsigner.enrolment.registrar.policy import PUBLIC_KEY, Machine, read_policy
from hwsigner.enrolment.registrar.registrar import RefusedRequest, Registrar
from hwsigner.enrolment.registrar.requests import problem_with
from hwsigner.errors import AttestationError, ServiceError, SigningKeyError
from softhsm.command import run
from softhsm.tpm import SoftTPM

CLIENT = "192.0.2.1"
# TCG EK Credential Profile, B.6.5: PolicyB, of the high range.
_POLICY_B = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
_POLICY_B_384 = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
_HIGH_KINDS = {
    "H-1": ("rsa2048:aes128cfb", "sha256", _POLICY_B),
    "H-2": ("ecc256:aes128cfb", "sha256", _POLICY_B),
    "H-3": ("ecc384:aes256cfb", "sha384", _POLICY_B_384),
    "H-6": ("rsa3072:aes256cfb", "sha384", _POLICY_B_384),
    "other": ("ecc256:aes256cfb", "sha256", _POLICY_B),
}
_HIGH = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt"


@dataclass
class Cloud:
    """A machine of a cloud: a TPM without certificates, and its endorsement key as tpm2-tools make it."""

    tpm: SoftTPM
    key: str
    ek: Path

    @property
    def chip(self) -> str:
        key = load_pem_public_key(self.ek.read_bytes())
        return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def cloud(tpm: SoftTPM, name: str, handle: str = "") -> Cloud:
    """Make the endorsement key of a template, and put it at a persistent handle if one is given."""
    pem, context = tpm.folder / "ek.pem", str(tpm.folder / "ek.ctx")
    if name.startswith("L"):
        made = ["tpm2_createek", "-Q", "-G", {"L-1": "rsa", "L-2": "ecc"}[name], "-c", context]
        run([*made, "-u", str(pem), "-f", "pem"], tpm.env)
    else:
        policy = tpm.folder / "policy"
        kind, hash_name, digest = _HIGH_KINDS[name]
        policy.write_bytes(bytes.fromhex(digest))
        made = ["tpm2_createprimary", "-Q", "-C", "e", "-G", kind, "-g", hash_name, "-a", _HIGH, "-L", str(policy)]
        run([*made, "-c", context], tpm.env)
        run(["tpm2_readpublic", "-Q", "-c", context, "-f", "pem", "-o", str(pem)], tpm.env)
    if handle:
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", context, handle], tpm.env)
    run(["tpm2_flushcontext", "-t"], tpm.env)
    tpm.create_key_file(tpm.folder / "key.pem", "EC:P-256")
    return Cloud(tpm, tpm.uri(tpm.folder / "key.pem"), pem)


@pytest.fixture
def bare(hardware: None) -> Iterator[SoftTPM]:
    """A TPM without a certificate or a persistent key."""
    with tempfile.TemporaryDirectory() as folder, SoftTPM(Path(folder)) as tpm:
        yield tpm


@pytest.fixture
def machine(bare: SoftTPM) -> Cloud:
    """A machine whose key is that of RSA in the low range."""
    return cloud(bare, "L-1")


@pytest.fixture
def site(ca: certs.Authority, tmp_path: Path) -> Site:
    """A registrar that trusts no vendor."""
    return Site(tmp_path, Trust(()), Issuer(ca))


def allow(site: Site, given: Path) -> None:
    flags = ["--ek-public-key", str(given), "--subject", SUBJECT, "--policy", str(site.policy)]
    assert main(["registrar", "allow", *flags]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "handle", "chosen"),
    [
        ("L-1", "", ""),
        ("L-1", "0x81010001", ""),
        ("L-2", "", "L-2"),
        ("L-2", "0x81010002", "L-2"),
        ("L-2", "0x81010001", "0x81010001"),
        ("H-1", "", "H-1"),
        ("H-1", "0x81010012", "0x81010012"),
        ("H-2", "0x81010014", "H-2"),
        ("H-2", "", "H-2"),
        ("H-3", "", "H-3"),
        ("H-3", "0x81010016", "0x81010016"),
        ("H-6", "", "H-6"),
        ("other", "0x81010020", "0x81010020"),
    ],
)
def test_machine_without_certificate_gets_its_own_when_the_policy_has_its_key(
    name: str, handle: str, chosen: str, bare: SoftTPM, site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    made = cloud(bare, name, handle)
    allow(site, made.ek)
    policy = read_policy(str(site.policy)).machines["web-01"]
    assert (policy.chip, policy.ek) == (made.chip, PUBLIC_KEY)
    key = f"{made.key}&endorsement-key={chosen}" if chosen else made.key
    capfd.readouterr()
    assert main(["attest", "--ek", key]) == 0
    assert capfd.readouterr().out == f"{made.chip}\n"
    with site.serving() as server:
        assert enrolled(url(server), key, asked(key)).public_key() == asked(key).x509.public_key()
    assert site.decisions == ["challenged", "proven", "issued"]
    assert [facts.get("ek") for facts in site.audit if facts["decision"] != "received"] == [PUBLIC_KEY] * 3
    for kind in ("handles-transient", "handles-loaded-session"):
        assert run(["tpm2_getcap", kind], bare.env) == b""


def test_what_attest_ek_prints_as_json_is_what_allow_takes(
    machine: Cloud, site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["attest", "--ek", machine.key, "--output", "json"]) == 0
    (tmp_path / "ek.json").write_text(capfd.readouterr().out)
    allow(site, tmp_path / "ek.json")
    assert read_policy(str(site.policy)).machines["web-01"].chip == machine.chip


def refusal_of(registrar: Registrar, given: bytes) -> None:
    with suppress(RefusedRequest):
        registrar.challenge(given, CLIENT)


def test_refusals_without_a_certificate_are_alike_whatever_the_policy_has(
    machine: Cloud, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def counted(request: CertificateRequest, compared_with: Machine) -> str:
        compared.append(compared_with.name)
        return problem_with(request, compared_with)

    monkeypatch.setattr("hwsigner.enrolment.registrar.registrar.problem_with", counted)
    given = body(statement=statement(Chip(machine.tpm, machine.key, site.trust), asked(machine.key)))
    known = tpm(machine.chip)
    refusals, calls = [], []
    for policy in ([], [known], [replace(known, ek=PUBLIC_KEY, dns=("other",))]):
        site.allow(*policy)
        with pytest.raises(RefusedRequest, match="the statement has no certificate of the endorsement key") as raised:
            site.registrar().challenge(given, CLIENT)
        refusals.append((raised.value.status, raised.value.message, raised.value.hint))
        calls.append(calls_of(partial(refusal_of, site.registrar(), given)).total())
    assert len(set(refusals)) == 1
    assert refusals[0][2].endswith("If that was done, the registrar's log has the reason")
    assert compared == ["", "", "web-01", "web-01", "web-01", "web-01"]
    assert abs(calls[1] - calls[2]) < calls[1] / 200  # Names that are right cost a little more.
    assert abs(calls[0] - calls[1]) < calls[0] / 20
    reasons = [str(facts["reason"]).partition(": ")[2] for facts in site.audit[::2]]
    assert reasons[:2] == ["the policy does not name this chip", 'the policy has no ek = "public-key" for this chip']
    assert reasons[2] == "the request has other alternative names than the policy"


def test_certificate_stays_needed_of_a_machine_that_is_not_marked(
    chip: Chip, ca: certs.Authority, tmp_path: Path
) -> None:
    site = Site(tmp_path, chip.trust, Issuer(ca))
    site.allow(tpm(ek(chip)))
    without = changed(statement(chip, asked(chip.key)), ekCertificates=())
    with pytest.raises(RefusedRequest, match="the statement has no certificate of the endorsement key"):
        site.registrar().challenge(body(statement=without), CLIENT)
    site.allow(replace(tpm(ek(chip)), ek=PUBLIC_KEY))
    assert challenged(site.registrar(), without)
    assert site.decisions == ["refused", "challenged"]


def test_marked_machine_may_also_send_certificates_that_lead_to_no_root(
    chips: tuple[Chip, Chip, Chip], ca: certs.Authority, tmp_path: Path
) -> None:
    site = Site(tmp_path, chips[2].trust, Issuer(ca))
    site.allow(replace(tpm(ek(chips[0])), ek=PUBLIC_KEY))
    with site.serving() as server:
        enrolled(url(server), chips[0].key, asked(chips[0].key))
        with pytest.raises(ServiceError, match="leads to none of the roots"):
            enrolled(url(server), chips[1].key, asked(chips[1].key))


def test_mark_that_is_removed_after_the_challenge_counts(machine: Cloud, site: Site) -> None:
    site.allow(replace(tpm(machine.chip), ek=PUBLIC_KEY))
    registrar, given = site.registrar(), statement(Chip(machine.tpm, machine.key, site.trust), asked(machine.key))
    challenge, state = challenged(registrar, given)
    answer = attestation.answer_challenge(machine.key, challenge)
    site.allow(tpm(machine.chip))
    with pytest.raises(RefusedRequest, match="the statement has no certificate of the endorsement key"):
        registrar.certify(body(statement=given, state=state, answer=answer), CLIENT)
    assert site.issuer.requests == []


def test_marked_key_does_not_help_another_tpm(machine: Cloud, chip: Chip, site: Site) -> None:
    site.allow(replace(tpm(machine.chip), ek=PUBLIC_KEY))
    stolen = statement(Chip(machine.tpm, machine.key, site.trust), asked(machine.key))
    mixed = changed(statement(chip, asked(chip.key)), ekPublic=stolen.blob("ekPublic"), ekCertificates=())
    challenge, _ = challenged(site.registrar(), mixed)
    with pytest.raises((AttestationError, SigningKeyError)):
        attestation.answer_challenge(chip.key, challenge)


def test_choice_of_no_endorsement_key_is_refused(machine: Cloud, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["attest", "--ek", f"{machine.key}&endorsement-key=rsa"]) == 2
    assert "endorsement-key=rsa names no endorsement key. Use one of H-1" in capfd.readouterr().err
    assert main(["attest", "--ek", f"{machine.key}&endorsement-key=0x81010001"]) != 0
    assert "handle:0x81010001" in capfd.readouterr().err
