"""Certificate requests, and certificates for them that have any mistake a CA can make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from hwsigner._identity.certificate_request import CertificateRequest, parse_name, sign_certificate_request
from hwsigner.key import open_key

SUBJECT = "CN=bamboo-01,OU=devops"
DNS = "bamboo-01.example.com"
URI = "spiffe://example.com/bamboo-01"
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Requested:
    """A request, and the path of its key."""

    request: CertificateRequest
    key: Path


def requested(folder: Path, private: Any = None) -> Requested:
    """Write a key into a folder, a P-256 key unless another is given, and make a request for it."""
    path = certs.write_key(folder / "asked.key", private or ec.generate_private_key(ec.SECP256R1()))
    with open_key(str(path)) as key:
        return Requested(sign_certificate_request(key, SUBJECT, dns_names=[DNS], uris=[URI]), path)


@dataclass(frozen=True)
class Answer:
    """How a certificate differs from what was asked. The defaults are as asked."""

    subject: str | None = None
    alternatives: tuple[x509.GeneralName, ...] | None = None
    public_key: Any = None
    begin: datetime = NOW - timedelta(hours=1)
    end: datetime = NOW + timedelta(days=2)
    is_ca: bool = False
    digital_signature: bool = True


def certified(ca: certs.Authority, request: CertificateRequest, answer: Answer = Answer()) -> bytes:
    """Return a certificate for a request, in DER."""
    asked = request.x509
    alternatives = answer.alternatives
    if alternatives is None:
        alternatives = tuple(asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    builder = (
        x509.CertificateBuilder()
        .subject_name(asked.subject if answer.subject is None else parse_name(answer.subject))
        .issuer_name(ca.certificate.subject)
        .public_key(answer.public_key or asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(answer.begin)
        .not_valid_after(answer.end)
        .add_extension(x509.BasicConstraints(answer.is_ca, None), critical=True)
        .add_extension(certs._usage(replace(certs.LEAF, digital_signature=answer.digital_signature)), critical=True)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(ca.key, SHA256()).public_bytes(Encoding.DER)
