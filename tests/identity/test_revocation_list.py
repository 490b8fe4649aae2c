"""Revocation lists: openssl accepts them, and they keep what was there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto.crl import CertificateList
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

import certs
from emulators import InProcessSoftHSM
from hwsigner._identity.certificate import Certificate
from hwsigner._identity.next_revocation_list import REASONS, check_signer, draft_list
from hwsigner._identity.revocation_list import RevocationList
from hwsigner.errors import CertificateError, KeyMismatchError
from hwsigner.key import open_key
from judges import needs_openssl_3_5
from softhsm.tpm import SoftTPM

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CA = certs.make_ca()
SERIALS = st.integers(1, (1 << 159) - 1)


def as_ca(authority: certs.Authority) -> Certificate:
    return Certificate(authority.certificate, "ca.pem")


def foreign_list(
    authority: certs.Authority,
    serials: dict[int, x509.ReasonFlags | None] | None = None,
    *,
    number: int | None = 7,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    begin: datetime = NOW - certs.DAY,
    end: datetime = NOW + certs.DAY,
) -> RevocationList:
    """Return a list that another tool made."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(begin).next_update(end)
    for serial, reason in (serials or {}).items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin)
        if reason:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    for extension, critical in (*(((x509.CRLNumber(number), False),) if number is not None else ()), *extensions):
        builder = builder.add_extension(extension, critical)
    made = builder.sign(authority.key, SHA256())
    return RevocationList.read(made.public_bytes(Encoding.PEM), "the old list")


def key_of(authority: certs.Authority, folder: Path) -> str:
    return str(certs.write_key(folder / "ca.key", authority.key))


def sign(
    authority: certs.Authority, folder: Path, old: RevocationList | None, *serials: int, **more: Any
) -> x509.CertificateRevocationList:
    with open_key(key_of(authority, folder)) as key:
        return draft_list(as_ca(authority), old, serials, now=NOW, **more).sign(key).x509


def openssl_refuses(folder: Path, ca: certs.Authority, made: RevocationList, leaf: x509.Certificate) -> str:
    """Verify a leaf against a list with openssl, which must accept the list; return why it refuses the leaf, if so."""
    for name, data in (("ca.pem", ca.pem), ("list.pem", made.pem), ("leaf.pem", certs.pem(leaf))):
        (folder / name).write_bytes(data)
    command = ["openssl", "crl", "-verify", "-CAfile", "ca.pem", "-in", "list.pem", "-noout"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert shown.stderr.strip() == "verify OK"
    command = ["openssl", "verify", "-crl_check", "-CRLfile", "list.pem", "-CAfile", "ca.pem", "leaf.pem"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stderr


AUTHORITIES = [
    lambda: ec.generate_private_key(ec.SECP256R1()),
    lambda: ec.generate_private_key(ec.SECP384R1()),
    lambda: ec.generate_private_key(ec.SECP521R1()),
    lambda: rsa.generate_private_key(65537, 2048),
    pytest.param(mldsa.MLDSA65PrivateKey.generate, marks=needs_openssl_3_5),
]


@pytest.mark.parametrize("make", AUTHORITIES)
def test_openssl_accepts_the_list_and_refuses_the_revoked_certificate(tmp_path: Path, make: Callable[[], Any]) -> None:
    ca, now = certs.make_ca(key=make()), datetime.now(UTC)
    public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    bad, good = certs.issue(ca, public_key), certs.issue(ca, public_key)
    draft = draft_list(as_ca(ca), None, [bad.serial_number], now=now, reason="keyCompromise")
    with open_key(key_of(ca, tmp_path)) as key:
        made = draft.sign(key)
    assert made.is_signed_by(as_ca(ca))
    assert len(made.pem) <= len(draft.preview.pem) <= len(made.pem) + 2000
    assert "certificate revoked" in openssl_refuses(tmp_path, ca, made, bad)
    assert openssl_refuses(tmp_path, ca, made, good) == ""


class TestHardware:
    def test_key_in_a_token_signs_a_long_list(self, tmp_path: Path, softhsm: InProcessSoftHSM) -> None:
        softhsm.generate("ca", b"\x01", "EC:prime256v1")
        softhsm.reload()
        pin = tmp_path / "pin"
        pin.touch(0o600)
        pin.write_text(softhsm.pin)
        self.judge(tmp_path, softhsm.uri("ca", pin), softhsm.public_key(b"\x01"))

    @pytest.mark.parametrize("kind", ["EC:P-256", "RSA:2048"])
    def test_key_in_a_tpm_signs_a_long_list(self, tmp_path: Path, swtpm: SoftTPM, kind: str) -> None:
        path = tmp_path / "tpm.key"
        swtpm.create_key_file(path, kind)
        self.judge(tmp_path, f"tpm2:path={path}?tcti={swtpm.tcti}", swtpm.public_key(path))

    def judge(self, folder: Path, uri: str, public_key: bytes) -> None:
        """Sign a list of 2,500 entries with a CA whose certificate another key signed, as its own can't be read."""
        root = certs.make_ca("Root")
        certificate = certs.issue(root, public_key, certs.Shape("Token CA", is_ca=True))
        ca = Certificate(certificate, "ca.pem")
        now = datetime.now(UTC)
        draft = draft_list(ca, None, range(1 << 120, (1 << 120) + 2500), now=now, reason="superseded")
        with open_key(uri, allow_modules=True) as key:
            made = draft.sign(key)
        (folder / "ca.pem").write_bytes(certs.pem(certificate))
        (folder / "list.pem").write_bytes(made.pem)
        command = ["openssl", "crl", "-verify", "-CAfile", "ca.pem", "-in", "list.pem", "-noout"]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert ran.stderr.strip() == "verify OK"
        assert len(made.revoked) == 2500


@given(
    old=st.dictionaries(
        SERIALS, st.sampled_from([None, x509.ReasonFlags.key_compromise, x509.ReasonFlags.certificate_hold])
    ),
    new=st.lists(SERIALS, unique=True),
    repeated=st.integers(0, 3),
    number=st.none() | st.integers(0, 1 << 150),
    reason=st.sampled_from(sorted(REASONS)),
)
def test_next_list_has_the_union_of_the_entries_and_a_higher_number(
    tmp_path_factory: pytest.TempPathFactory,
    old: dict[int, x509.ReasonFlags | None],
    new: list[int],
    repeated: int,
    number: int | None,
    reason: str,
) -> None:
    before = foreign_list(CA, old, number=number)
    wanted = [*new, *list(old)[:repeated]]
    made = sign(CA, tmp_path_factory.mktemp("list"), before, *wanted, reason=reason)
    assert {entry.serial_number for entry in made} == old.keys() | set(new)
    assert len(list(made)) == len(old.keys() | set(new))
    assert made.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == (number or 0) + 1
    entries = {each["user_certificate"].native: each.dump() for each in parsed(made)}
    assert {each["user_certificate"].native: each.dump() for each in parsed(before.x509)}.items() <= entries.items()
    if reason != "unspecified":
        for serial in set(new) - old.keys():
            entry = made.get_revoked_certificate_by_serial_number(serial)
            assert entry is not None
            assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason == REASONS[reason]


def parsed(made: x509.CertificateRevocationList) -> Any:
    return CertificateList.load(made.public_bytes(Encoding.DER))["tbs_cert_list"]["revoked_certificates"] or ()


OPENSSL_CA = """
[ca]
default_ca = own
[own]
database = index.txt
default_md = sha256
default_crl_days = 30
certificate = ca.pem
private_key = ca.key
"""


@pytest.mark.parametrize("settings", ["", "crlnumber = crlnumber\n"])
def test_list_of_openssl_is_continued(tmp_path: Path, settings: str) -> None:
    (tmp_path / "ca.pem").write_bytes(CA.pem)
    certs.write_key(tmp_path / "ca.key", CA.key)
    (tmp_path / "openssl.cnf").write_text(OPENSSL_CA + settings)
    (tmp_path / "crlnumber").write_text("00FF\n")
    (tmp_path / "index.txt").write_text("R\t351231235959Z\t260101000000Z,keyCompromise\t03E8\tunknown\t/CN=old\n")
    command = ["openssl", "ca", "-config", "openssl.cnf", "-gencrl", "-out", "old.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    old = RevocationList.read((tmp_path / "old.pem").read_bytes(), "openssl's")
    assert old.is_signed_by(as_ca(CA))
    draft = draft_list(as_ca(CA), old, [1001], now=datetime.now(UTC))
    with open_key(str(tmp_path / "ca.key")) as key:
        made = draft.sign(key)
    assert made.number == (0x100 if settings else 1)
    assert made.revoked.keys() == {1000, 1001}
    bad = certs.issue(CA, CA.key.public_key(), certs.Shape(serial=1000))
    assert "certificate revoked" in openssl_refuses(tmp_path, CA, made, bad)


def test_extensions_of_the_old_list_are_kept(tmp_path: Path) -> None:
    place = x509.UniformResourceIdentifier("http://example.com/ca.crl")
    point = x509.IssuingDistributionPoint(
        full_name=[place],
        relative_name=None,
        only_contains_user_certs=False,
        only_contains_ca_certs=False,
        only_some_reasons=None,
        indirect_crl=False,
        only_contains_attribute_certs=False,
    )
    alternative = x509.IssuerAlternativeName([x509.DNSName("ca.example.com")])
    old = foreign_list(CA, {5: None}, extensions=((point, True), (alternative, False)))
    made = sign(CA, tmp_path, old, 6)
    assert made.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value == point
    assert made.extensions.get_extension_for_class(x509.IssuerAlternativeName).value == alternative
    assert x509.AuthorityKeyIdentifier.oid in {each.oid for each in made.extensions}


@pytest.mark.parametrize(
    "extension",
    [
        x509.DeltaCRLIndicator(3),
        x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
        x509.IssuingDistributionPoint(None, None, False, False, None, True, False),
    ],
)
def test_part_of_a_list_is_not_continued(extension: x509.ExtensionType) -> None:
    old = foreign_list(CA, {5: None}, extensions=((extension, True),))
    with pytest.raises(CertificateError, match="critical extension"):
        draft_list(as_ca(CA), old, [6], now=NOW)


def test_next_update_is_not_earlier_than_before_unless_days_say_so(tmp_path: Path) -> None:
    old = foreign_list(CA, end=NOW + timedelta(days=4000))
    assert sign(CA, tmp_path, old, 1).next_update_utc == NOW + timedelta(days=4000)
    assert sign(CA, tmp_path, old, 1, days=10).next_update_utc == NOW + timedelta(days=10)
    assert sign(CA, tmp_path, foreign_list(CA), 1).next_update_utc == NOW + timedelta(days=365)
    assert sign(CA, tmp_path, None, 1, days=9000).next_update_utc == NOW + timedelta(days=9000)  # After 2050: 2050.


def test_this_update_does_not_go_back(tmp_path: Path) -> None:
    ahead = NOW + timedelta(minutes=2)
    assert sign(CA, tmp_path, foreign_list(CA, begin=ahead), 1).last_update_utc == ahead


def test_list_of_the_future_is_refused_because_of_the_clock() -> None:
    old = foreign_list(CA, begin=NOW + timedelta(hours=1))
    with pytest.raises(CertificateError, match="Fix the clock"):
        draft_list(as_ca(CA), old, [1], now=NOW)


def test_another_key_is_refused(tmp_path: Path) -> None:
    with open_key(key_of(certs.make_ca(), tmp_path)) as key, pytest.raises(KeyMismatchError, match=r"ca\.pem"):
        draft_list(as_ca(CA), None, [1], now=NOW).sign(key)


def test_ca_without_crl_sign_and_leaf_are_refused() -> None:
    check_signer(as_ca(CA))
    with pytest.raises(CertificateError, match="cRLSign"):
        check_signer(Certificate(without_crl_sign(), "ca.pem"))
    with pytest.raises(CertificateError, match="not a CA's"):
        check_signer(Certificate(certs.issue(CA, CA.key.public_key()), "leaf.pem"))


def without_crl_sign() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Old CA")])
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(CA.key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + certs.DAY)
    builder = builder.add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
    return builder.sign(CA.key, SHA256())


@pytest.mark.parametrize("data", [b"", b"nothing", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", CA.pem])
def test_garbage_is_an_error_that_names_its_source(data: bytes) -> None:
    with pytest.raises(CertificateError, match="list 'x'"):
        RevocationList.read(data, "list 'x'")


def test_list_of_another_key_with_the_same_name_is_told_apart() -> None:
    twin = certs.make_ca()
    assert foreign_list(twin).names_issuer(as_ca(CA))
    assert not foreign_list(twin).is_signed_by(as_ca(CA))


def test_list_with_the_highest_number_is_not_continued() -> None:
    highest = (1 << 159) - 1
    draft = draft_list(as_ca(CA), foreign_list(CA, number=highest - 1), [1], now=NOW)
    assert draft.preview.number == highest
    with pytest.raises(CertificateError, match="the new CRL has the highest CRLNumber"):
        draft_list(as_ca(CA), draft.preview, [2], now=NOW)
