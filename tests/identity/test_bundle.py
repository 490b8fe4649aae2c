"""The bundles of trust anchors: certificates in PEM, one after the other."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from hwsigner._identity.bundle import read_bundle, write_bundle
from hwsigner.errors import CertificateError

CAS = certs.make_ca("One"), certs.make_ca("Two")
DERS = [ca.certificate.public_bytes(Encoding.DER) for ca in CAS]
PEM = b"".join(ca.pem for ca in CAS)


@pytest.mark.parametrize(
    "pem",
    [PEM, PEM.decode(), b"the CAs of 2026\n" + PEM, PEM.replace(b"\n", b"\r\n")],
    ids=["PEM", "text", "with words", "CRLF"],
)
def test_bundle_has_its_certificates_in_order(pem: bytes | str) -> None:
    assert [found.x509.public_bytes(Encoding.DER) for found in read_bundle(pem, "ca.pem")] == DERS
    assert write_bundle(read_bundle(pem, "ca.pem")).encode() == PEM


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(b"", id="empty"),
        pytest.param(DERS[0], id="binary"),
        pytest.param(PEM[:100], id="cut"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", id="a key"),
    ],
)
def test_bundle_without_certificates_is_refused(pem: bytes) -> None:
    with pytest.raises(CertificateError, match=r"ca\.pem has no certificates in PEM"):
        read_bundle(pem, "ca.pem")


@pytest.mark.parametrize("place", range(3))
def test_bundle_with_one_broken_certificate_is_refused(place: int) -> None:
    broken = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(DERS[0][:-1]) + b"\n-----END CERTIFICATE-----\n"
    parts = [ca.pem for ca in CAS]
    with pytest.raises(CertificateError, match=r"ca\.pem"):
        read_bundle(b"".join([*parts[:place], broken, *parts[place:]]), "ca.pem")
