"""The demo's CA: certificates as IAM Roles Anywhere wants them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


class DemoCA:
    """A root CA with an EC P-256 key.

    Attributes:
        pem: its certificate.
        key_pem: its private key (PKCS #8), for programs that issue certificates too.
    """

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._subject, self._key.public_key()).add_extension(x509.BasicConstraints(True, 0), True)
        self.pem = self._sign(builder.add_extension(_usage(ca=True), True))
        self.key_pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def issue(self, request: bytes) -> bytes:
        """Return a leaf in PEM for a certificate request in PEM (RFC 2986), whose signature must be valid."""
        csr = x509.load_pem_x509_csr(request)
        if not csr.is_signature_valid:
            raise ValueError("the signature of the certificate request is invalid")
        builder = _builder(csr.subject, csr.public_key())
        builder = builder.add_extension(x509.BasicConstraints(False, None), True)
        return self._sign(builder.add_extension(_usage(ca=False), True))

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.issuer_name(self._subject).sign(self._key, SHA256()).public_bytes(Encoding.PEM)


def _builder(subject: x509.Name, public_key: PublicKeyTypes) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(minutes=5)
    return x509.CertificateBuilder(
        subject_name=subject,
        public_key=cast(CertificatePublicKeyTypes, public_key),
        serial_number=x509.random_serial_number(),
        not_valid_before=begin,
        not_valid_after=begin + _DAY,
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    never = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **never)
