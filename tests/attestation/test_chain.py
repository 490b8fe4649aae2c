"""Chains of vendors' certificates."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asn1crypto.core import ObjectIdentifier, OctetBitString
from asn1crypto.core import Sequence as Elements
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.chips import issue
from hwsigner import attestation
from hwsigner.attestation import chain as chain_module
from hwsigner.attestation.chain import (
    MOST_CERTIFICATES,
    MOST_CHECKS,
    MOST_SECONDS,
    Search,
    Trust,
    VendorCertificate,
    in_usual_form,
    verifies,
)
from hwsigner.attestation.documents import new
from hwsigner.errors import AttestationError, HwsignerError, UsageError

# Nuvoton TPM Root CA 1110, a self-signed certificate whose names are not in DER's order.
NUVOTON = base64.b64decode(
    "MIICBjCCAaygAwIBAgIIEDiqn2SaqGMwCgYIKoZIzj0EAwIwVTFTMB8GA1UEAxMYTnV2b3RvbiBUUE0gUm9vdCBDQSAxMTEwMCUG"
    "A1UEChMeTnV2b3RvbiBUZWNobm9sb2d5IENvcnBvcmF0aW9uMAkGA1UEBhMCVFcwHhcNMTUwNTExMDg0MzMzWhcNMzUwNTA3MDg0"
    "MzMzWjBVMVMwHwYDVQQDExhOdXZvdG9uIFRQTSBSb290IENBIDExMTAwJQYDVQQKEx5OdXZvdG9uIFRlY2hub2xvZ3kgQ29ycG9y"
    "YXRpb24wCQYDVQQGEwJUVzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDVkEOpuyhuviaDH6xQj3faaV2Z4FvXSdwUkTiB1JjPD"
    "gv1PU0SFYtEE1W9VmI1GcOn5FAUi2/QM36DPhmPTd+qjZjBkMA4GA1UdDwEB/wQEAwICBDASBgNVHRMBAf8ECDAGAQH/AgEAMB0G"
    "A1UdDgQWBBQVkdS26vmNAQSGS2kDpI3QAmB30zAfBgNVHSMEGDAWgBQVkdS26vmNAQSGS2kDpI3QAmB30zAKBggqhkjOPQQDAgNI"
    "ADBFAiEAlfxysfHDcxYDed5dmRbvHPKHLEEq9Y9PwAxoKqH7Q5kCIGfsxiLr2j9nJ9jELwXz0/VWN9PhUNdM3qmsx2JEne6p"
)
CA = x509.BasicConstraints(ca=True, path_length=None)
CERT_SIGN = {"key_cert_sign": True, "crl_sign": False, "digital_signature": False, "content_commitment": False}
CERT_SIGN |= dict.fromkeys(
    ("key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
)
CRL_SIGN = {**CERT_SIGN, "key_cert_sign": False, "crl_sign": True}
_Issued = tuple[x509.Certificate, Any]


def _read(issued: _Issued) -> VendorCertificate:
    return VendorCertificate.read(issued[0].public_bytes(Encoding.DER), "a certificate")


def _trust(*roots: _Issued) -> Trust:
    return Trust(tuple(map(_read, roots)), datetime.now(UTC))


def _issued(issuer: VendorCertificate, other: VendorCertificate) -> bool:
    return issuer.is_issuer(other) and other.is_signed_by(issuer.public_key)


def _refusal(root: _Issued, leaf: _Issued, others: Sequence[_Issued] = ()) -> str:
    with pytest.raises(AttestationError) as caught:
        Search(_trust(root)).verify(_read(leaf), list(map(_read, others)))
    return caught.value.message


@pytest.fixture(scope="module")
def root() -> _Issued:
    return issue("Root", None, CA)


def test_chain_leads_from_the_leaf_to_the_root(root: _Issued) -> None:
    usage = x509.KeyUsage(**CERT_SIGN)
    intermediate = issue("Intermediate", root, CA, usage)
    leaf = issue("Leaf", intermediate)
    chain = Search(_trust(root)).verify(_read(leaf), [_read(issue("Other", root, CA)), _read(intermediate)])
    assert [one.subject for one in chain] == [f"Common Name: {name}" for name in ("Leaf", "Intermediate", "Root")]


def test_certificate_that_is_no_root_is_trusted_when_it_is_in_the_folder(root: _Issued) -> None:
    intermediate = issue("Intermediate", root, CA)
    assert Search(_trust(intermediate)).verify(_read(issue("Leaf", intermediate)))


@pytest.mark.parametrize(
    "extensions",
    [(), (x509.BasicConstraints(ca=False, path_length=None),), (CA, x509.KeyUsage(**CRL_SIGN))],
    ids=["no-basic-constraints", "not-ca", "no-cert-sign"],
)
def test_certificate_that_may_not_issue_is_no_intermediate(root: _Issued, extensions: Any) -> None:
    intermediate = issue("Intermediate", root, *extensions)
    assert "leads to none of the roots" in _refusal(root, issue("Leaf", intermediate), [intermediate])


def test_chain_is_refused_when_it_is_longer_than_an_issuer_allows() -> None:
    root = issue("Root", None, x509.BasicConstraints(ca=True, path_length=0))
    intermediate = issue("Intermediate", root, CA)
    assert "leads to none of the roots" in _refusal(root, issue("Leaf", intermediate), [intermediate])
    assert Search(_trust(root)).verify(_read(issue("Leaf", root)))


def test_certificate_is_refused_when_another_key_of_that_name_issued_it(root: _Issued) -> None:
    assert "leads to none of the roots" in _refusal(root, issue("Leaf", issue("Root", None, CA)))


@pytest.mark.parametrize("days", [(-2, -1), (1, 2)])
def test_chain_is_refused_when_a_certificate_in_it_is_not_valid(root: _Issued, days: tuple[int, int]) -> None:
    assert "the certificate of Common Name: Leaf is valid from" in _refusal(root, issue("Leaf", root, days=days))
    intermediate = issue("Intermediate", root, CA, days=days)
    assert "Common Name: Intermediate is valid" in _refusal(root, issue("Leaf", intermediate), [intermediate])
    old = issue("Old", None, CA, days=days)
    assert "Common Name: Old is valid" in _refusal(old, issue("Leaf", old))


def test_certificate_is_refused_when_a_critical_extension_is_unknown(root: _Issued) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert "a critical extension that is unknown here: 1.2.3.4" in _refusal(root, issue("Leaf", root, unknown))
    assert Search(_trust(root)).verify(_read(issue("Leaf", root, unknown, critical=False)))


@pytest.mark.parametrize("value", [b"\x80\x03abc", b"\xa0\x05\x0c\x03abc", b"\x0c\x03abc"])
def test_other_name_may_have_any_value(root: _Issued, value: bytes) -> None:
    names = [x509.DNSName("a.example"), x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), value)]
    leaf = issue("Leaf", root, x509.SubjectAlternativeName(names))
    assert Search(_trust(root)).verify(_read(leaf))


def test_valid_certificate_is_taken_when_an_expired_one_has_its_name_and_key(root: _Issued) -> None:
    key, intermediate_key = root[1], ec.generate_private_key(ec.SECP256R1())
    old, new = (issue("Root", None, CA, key=key, days=days) for days in ((-2, -1), (-1, 1)))
    stale, fresh = (issue("Intermediate", new, CA, key=intermediate_key, days=days) for days in ((-2, -1), (-1, 1)))
    leaf = _read(issue("Leaf", fresh))
    for roots in ((old, new), (new, old)):
        for others in ((stale, fresh), (fresh, stale)):
            chain = Search(_trust(*roots)).verify(leaf, list(map(_read, others)))
            assert chain == (leaf, _read(fresh), _read(new))


def test_shorter_chain_is_taken_when_a_longer_one_fits_too(root: _Issued) -> None:
    again = issue("Root", root, CA, key=root[1])
    leaf = _read(issue("Leaf", root))
    assert Search(_trust(root)).verify(leaf, [_read(again)]) == (leaf, _read(root))


# The limits


def _spellings(name: str, issuer: _Issued, count: int, **options: Any) -> list[VendorCertificate]:
    """Return certificates of names that are the same without regard to case, issued by one of them."""
    cases = (x for x in itertools.product(*((one, one.upper()) for one in name)))
    return [_read(issue("".join(case), issuer, CA, **options)) for case in itertools.islice(cases, count)]


def _count_checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list of the keys that signatures are verified with."""
    keys: list[bytes] = []

    def counted(public_key: bytes, *arguments: Any) -> bool:
        keys.append(public_key)
        return verifies(public_key, *arguments)

    monkeypatch.setattr(chain_module, "verifies", counted)
    return keys


def test_certificates_of_one_key_cost_one_check_each_whatever_their_names_are(
    root: _Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    forger = issue("abcdefg")
    others = _spellings("abcdefg", forger, 8, key=forger[1])
    keys = _count_checks(monkeypatch)
    with pytest.raises(AttestationError, match="leads to none of the roots"):
        Search(_trust(root)).verify(_read(issue("Leaf", forger)), others)
    assert len(keys) <= 1 + len(others)


def test_search_ends_when_too_many_signatures_would_have_to_be_verified(
    root: _Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates of one name, each issued by the next: all of those left are tried for each."""
    issued = [issue("abcdefg")]
    for _ in range(14):
        issued.append(issue("abcdefg", issued[-1], CA))
    keys = _count_checks(monkeypatch)
    with pytest.raises(AttestationError, match=f"more than {MOST_CHECKS} signatures"):
        Search(_trust(root)).verify(_read(issue("Leaf", issued[-1])), list(map(_read, issued)))
    assert len(keys) == MOST_CHECKS


def test_search_ends_when_it_takes_too_much_processor_time(root: _Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(spent) * MOST_SECONDS)
    search, leaf = Search(_trust(root)), _read(issue("Leaf", root))
    search.read(leaf.der, "a certificate")
    with pytest.raises(AttestationError, match=r"more than 0\.2 s of processor time"):
        search.read(leaf.der, "a certificate")
    with pytest.raises(AttestationError, match=r"more than 0\.2 s of processor time"):
        search.verify(leaf)


def test_statement_is_refused_when_it_has_many_or_long_certificates(root: _Issued) -> None:
    der, search = root[0].public_bytes(Encoding.DER), Search(_trust(root))
    for _ in range(MOST_CERTIFICATES):
        search.read(der, "a certificate")
    with pytest.raises(AttestationError, match=f"there are more than {MOST_CERTIFICATES} certificates"):
        search.read(der, "a certificate")
    with pytest.raises(AttestationError, match="a certificate has more than 8192 bytes"):
        Search(_trust(root)).read(der + bytes(8192), "a certificate")


def _rsa(bits: int, exponent: int) -> Any:
    """Return an RSA public key. Nobody has its private key."""
    return rsa.RSAPublicNumbers(exponent, (1 << bits - 1) + 12345).public_key()


@pytest.mark.parametrize(
    ("key", "is_refused"),
    [
        (_rsa(2048, 3), False),
        (_rsa(4096, 65537), False),
        (_rsa(8192, 2**32 - 1), False),
        (_rsa(2048, 2**32 + 1), True),
        (_rsa(3072, 2**3071 + 1), True),
        (_rsa(8193, 65537), True),
        (_rsa(16384, 65537), True),
        (ec.generate_private_key(ec.SECP521R1()).public_key(), False),
    ],
)
def test_certificate_is_refused_before_any_check_when_its_key_is_slow(
    key: Any, is_refused: bool, root: _Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    der = issue("Slow", root, CA, public_key=key)[0].public_bytes(Encoding.DER)
    keys = _count_checks(monkeypatch)
    with (
        pytest.raises(AttestationError, match="a key of an unusual kind, size or exponent")
        if is_refused
        else nullcontext()
    ):
        Search(_trust(root)).read(der, "a certificate")
    assert not keys


@pytest.mark.parametrize("kind", ["1.2.840.113549.1.3.1", "1.2.840.10046.2.1", "1.2.840.10040.4.1"])
def test_key_that_is_slow_to_load_is_not_loaded(kind: str, root: _Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL checks a Diffie-Hellman key when it loads it, which takes a second for one of 10,000 bits."""
    algorithm = Elements(contents=ObjectIdentifier(kind).dump()).dump()
    key = Elements(contents=algorithm + OctetBitString(b"\2\1\5").dump()).dump()
    monkeypatch.setattr(chain_module, "load_der_public_key", lambda _: pytest.fail("it was loaded"))
    assert in_usual_form(key) == b""
    claim = new("statement", "pkcs11", {"keyPublic": key, "token": "alpha"})
    with pytest.raises(AttestationError, match="of an unusual kind or size"):
        attestation.examine(claim, _trust(root))


@pytest.mark.parametrize(
    ("key", "is_usual"),
    [
        *((ec.generate_private_key(curve()), True) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)),
        *((ec.generate_private_key(curve()), False) for curve in (ec.SECP256K1, ec.BrainpoolP256R1)),
        (rsa.generate_private_key(3, 2048), True),
        (rsa.generate_private_key(65537, 1024), False),
    ],
)
def test_chain_is_verified_with_the_keys_that_vendors_use(key: Any, is_usual: bool) -> None:
    root = issue("Root", None, CA, key=key)
    leaf = issue("Leaf", root)
    if is_usual:
        assert Search(_trust(root)).verify(_read(leaf))
    else:
        assert "leads to none of the roots" in _refusal(root, leaf)


@pytest.mark.parametrize("scheme", [padding.PKCS1v15(), padding.PSS(padding.MGF1(SHA256()), 32)])
def test_signature_of_an_rsa_root_is_verified(scheme: Any) -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = issue("Root", None, CA, key=key, padding=scheme)
    leaf = issue("Leaf", root, padding=scheme)
    assert Search(_trust(root)).verify(_read(leaf))
    assert "leads to none of the roots" in _refusal(
        issue("Root", None, CA, key=ec.generate_private_key(ec.SECP256R1())), leaf
    )


def test_certificate_with_padding_is_read_without_it(root: _Issued) -> None:
    der = root[0].public_bytes(Encoding.DER)
    assert VendorCertificate.read(der + b"\xff" * 40, "a certificate").der == der


def test_root_is_read_and_verifies_when_cryptography_refuses_it() -> None:
    with pytest.raises(ValueError, match="InvalidSetOrdering"):
        x509.load_der_x509_certificate(NUVOTON)
    root = VendorCertificate.read(NUVOTON, "Nuvoton's root")
    assert "Nuvoton TPM Root CA 1110" in root.subject
    assert (root.is_ca, root.longest_path, _issued(root, root)) == (True, 0, True)
    for index in range(len(NUVOTON)):
        with suppress(AttestationError):
            flipped = VendorCertificate.read(
                NUVOTON[:index] + bytes([NUVOTON[index] ^ 1]) + NUVOTON[index + 1 :], "one"
            )
            # The count of unused bits in the signature is not signed.
            assert not _issued(root, flipped) or index == NUVOTON.rindex(b"\x03\x48\x00") + 2


def test_certificate_is_refused_when_it_is_cut_short(root: _Issued) -> None:
    der = root[0].public_bytes(Encoding.DER)
    for length in range(len(der)):
        with pytest.raises(AttestationError):
            VendorCertificate.read(der[:length], "a certificate")


def test_folder_gives_every_certificate_in_its_files(root: _Issued, tmp_path: Path) -> None:
    other = issue("Other", None, CA)
    both = root[0].public_bytes(Encoding.PEM) + other[0].public_bytes(Encoding.PEM)
    (tmp_path / "two.pem").write_bytes(both)
    (tmp_path / "one.CER").write_bytes(issue("DER", None, CA)[0].public_bytes(Encoding.DER))
    (tmp_path / "README").write_text("not a certificate")
    found = attestation.read_trust(str(tmp_path)).roots
    assert sorted(one.subject for one in found) == [f"Common Name: {name}" for name in ("DER", "Other", "Root")]


def test_folder_is_refused_when_it_has_no_readable_certificates(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't read the folder"):
        attestation.read_trust(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="has no certificates"):
        attestation.read_trust(str(tmp_path))
    (tmp_path / "root.pem").write_text("garbage")
    with pytest.raises(HwsignerError, match=r"root\.pem"):
        attestation.read_trust(str(tmp_path))
