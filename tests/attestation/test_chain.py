"""Chains of vendors' certificates."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.chips import issue
from hwsigner import attestation
from hwsigner.attestation.chain import Trust, VendorCertificate
from hwsigner.attestation.search import Search
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
Certified = tuple[x509.Certificate, Any]


def read(issued: Certified) -> VendorCertificate:
    return VendorCertificate.read(issued[0].public_bytes(Encoding.DER), "a certificate")


def trusting(*roots: Certified) -> Trust:
    return Trust(tuple(map(read, roots)), datetime.now(UTC))


def _issued(issuer: VendorCertificate, other: VendorCertificate) -> bool:
    return issuer.is_issuer(other) and other.is_signed_by(issuer.public_key)


def refusal(root: Certified, leaf: Certified, others: Sequence[Certified] = ()) -> str:
    with pytest.raises(AttestationError) as caught:
        Search(trusting(root)).verify(read(leaf), list(map(read, others)))
    return caught.value.message


@pytest.fixture(scope="module")
def root() -> Certified:
    return issue("Root", None, CA)


def test_chain_leads_from_the_leaf_to_the_root(root: Certified) -> None:
    usage = x509.KeyUsage(**CERT_SIGN)
    intermediate = issue("Intermediate", root, CA, usage)
    leaf = issue("Leaf", intermediate)
    chain = Search(trusting(root)).verify(read(leaf), [read(issue("Other", root, CA)), read(intermediate)])
    assert [one.subject for one in chain] == [f"Common Name: {name}" for name in ("Leaf", "Intermediate", "Root")]


def test_certificate_that_is_no_root_is_trusted_when_it_is_in_the_folder(root: Certified) -> None:
    intermediate = issue("Intermediate", root, CA)
    assert Search(trusting(intermediate)).verify(read(issue("Leaf", intermediate)))


@pytest.mark.parametrize(
    "extensions",
    [(), (x509.BasicConstraints(ca=False, path_length=None),), (CA, x509.KeyUsage(**CRL_SIGN))],
    ids=["no-basic-constraints", "not-ca", "no-cert-sign"],
)
def test_certificate_that_may_not_issue_is_no_intermediate(root: Certified, extensions: Any) -> None:
    intermediate = issue("Intermediate", root, *extensions)
    assert "leads to none of the roots" in refusal(root, issue("Leaf", intermediate), [intermediate])


def test_chain_is_refused_when_it_is_longer_than_an_issuer_allows() -> None:
    root = issue("Root", None, x509.BasicConstraints(ca=True, path_length=0))
    intermediate = issue("Intermediate", root, CA)
    assert "leads to none of the roots" in refusal(root, issue("Leaf", intermediate), [intermediate])
    assert Search(trusting(root)).verify(read(issue("Leaf", root)))


def test_certificate_is_refused_when_another_key_of_that_name_issued_it(root: Certified) -> None:
    assert "leads to none of the roots" in refusal(root, issue("Leaf", issue("Root", None, CA)))


@pytest.mark.parametrize("days", [(-2, -1), (1, 2)])
def test_chain_is_refused_when_a_certificate_in_it_is_not_valid(root: Certified, days: tuple[int, int]) -> None:
    assert "the certificate of Common Name: Leaf is valid from" in refusal(root, issue("Leaf", root, days=days))
    intermediate = issue("Intermediate", root, CA, days=days)
    assert "Common Name: Intermediate is valid" in refusal(root, issue("Leaf", intermediate), [intermediate])
    old = issue("Old", None, CA, days=days)
    assert "Common Name: Old is valid" in refusal(old, issue("Leaf", old))


def test_certificate_is_refused_when_a_critical_extension_is_unknown(root: Certified) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert "a critical extension that is unknown here: 1.2.3.4" in refusal(root, issue("Leaf", root, unknown))
    assert Search(trusting(root)).verify(read(issue("Leaf", root, unknown, critical=False)))


@pytest.mark.parametrize("value", [b"\x80\x03abc", b"\xa0\x05\x0c\x03abc", b"\x0c\x03abc"])
def test_other_name_may_have_any_value(root: Certified, value: bytes) -> None:
    names = [x509.DNSName("a.example"), x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), value)]
    leaf = issue("Leaf", root, x509.SubjectAlternativeName(names))
    assert Search(trusting(root)).verify(read(leaf))


@pytest.mark.parametrize("scheme", [padding.PKCS1v15(), padding.PSS(padding.MGF1(SHA256()), 32)])
def test_signature_of_an_rsa_root_is_verified(scheme: Any) -> None:
    key = rsa.generate_private_key(65537, 2048)
    root = issue("Root", None, CA, key=key, padding=scheme)
    leaf = issue("Leaf", root, padding=scheme)
    assert Search(trusting(root)).verify(read(leaf))
    assert "leads to none of the roots" in refusal(
        issue("Root", None, CA, key=ec.generate_private_key(ec.SECP256R1())), leaf
    )


def test_certificate_with_padding_is_read_without_it(root: Certified) -> None:
    der = root[0].public_bytes(Encoding.DER)
    assert VendorCertificate.read(der + b"\xff" * 40, "a certificate").der == der


@pytest.mark.slow
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


def test_certificate_is_refused_when_it_is_cut_short(root: Certified) -> None:
    der = root[0].public_bytes(Encoding.DER)
    for length in range(len(der)):
        with pytest.raises(AttestationError):
            VendorCertificate.read(der[:length], "a certificate")


def test_folder_gives_every_certificate_in_its_files(root: Certified, tmp_path: Path) -> None:
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
