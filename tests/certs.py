"""Certificates for tests: a CA, leaves that the service accepts, and an argument to break each rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A CA: its certificate and its private key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return pem(self.certificate)


@dataclass(frozen=True)
class Shape:
    """The contents of a certificate. The defaults make a leaf that the service accepts."""

    common_name: str = "bamboo-01"
    begin: datetime | None = None
    end: datetime | None = None
    is_ca: bool | None = False
    digital_signature: bool | None = True
    hash: SHA256 = field(default_factory=SHA256)
    serial: int | None = None


LEAF = Shape()


def make_ca(common_name: str = "Example CA", issuer: Authority | None = None, key: Any = None) -> Authority:
    """Return a root CA, or an intermediate CA of another one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    shape = Shape(common_name, is_ca=True)
    issuer_name = issuer.certificate.subject if issuer else subject(common_name)
    return Authority(_certificate(key.public_key(), shape, issuer_name, issuer.key if issuer else key), key)


def issue(ca: Authority, public_key: Any, shape: Shape = LEAF) -> x509.Certificate:
    """Issue a certificate for a public key, given as an object or as a DER SubjectPublicKeyInfo."""
    key = load_der_public_key(public_key) if isinstance(public_key, bytes) else public_key
    return _certificate(key, shape, ca.certificate.subject, ca.key)


def ago(days: float) -> datetime:
    """Return the time some days ago, or in the future if negative."""
    return datetime.now(UTC) - timedelta(days=days)


def subject(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "devops"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def write_key(path: Path, key: Any) -> Path:
    """Write a private key as unencrypted PKCS #8 that only its owner can read."""
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def _certificate(public_key: Any, shape: Shape, issuer: x509.Name, signing_key: Any) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(shape.common_name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(shape.serial or x509.random_serial_number())
        .not_valid_before(shape.begin or now - DAY)
        .not_valid_after(shape.end or now + 30 * DAY)
    )
    if shape.is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=shape.is_ca, path_length=None), critical=True)
    if shape.digital_signature is not None:
        builder = builder.add_extension(_usage(shape), critical=True)
    return builder.sign(signing_key, shape.hash if _hash_for(signing_key) else None)


def _usage(shape: Shape) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=bool(shape.digital_signature),
        key_cert_sign=bool(shape.is_ca),
        crl_sign=bool(shape.is_ca),
        content_commitment=False,
        key_encipherment=not shape.digital_signature,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _hash_for(key: Any) -> SHA256 | None:
    """Return the hash to sign certificates with; an ML-DSA key has none."""
    return None if "MLDSA" in type(key).__name__.upper().replace("-", "") else SHA256()
