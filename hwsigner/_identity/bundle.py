"""Bundles of CA certificates in PEM, as trust anchors have them."""

from __future__ import annotations

from collections.abc import Sequence

from hwsigner._identity.certificate import Certificate, load_readable
from hwsigner.errors import CertificateError
from hwsigner.key import FoundCertificate


def read_bundle(pem: str | bytes, source: str) -> list[Certificate]:
    """Return the certificates of a bundle, in order.

    What is between the certificates does not count. A bundle without any is a CertificateError.
    """
    from asn1crypto.pem import unarmor

    data = pem.encode() if isinstance(pem, str) else pem
    try:
        blocks = [der for label, _, der in unarmor(data, multiple=True) if label == "CERTIFICATE"]
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{source} has no certificates in PEM", "Get another copy") from error
    if not blocks:
        raise CertificateError(f"{source} has no certificates in PEM", "Get another copy")
    certificates, errors = load_readable([FoundCertificate(der, source) for der in blocks])
    if errors:
        raise errors[0]
    return certificates


def write_bundle(certificates: Sequence[Certificate]) -> str:
    """Return a bundle with these certificates."""
    from asn1crypto.pem import armor

    return b"".join(armor("CERTIFICATE", each.der) for each in certificates).decode()


def subjects(certificates: Sequence[Certificate]) -> str:
    """Return the subjects of certificates, for messages."""
    return " and ".join(each.subject or "an empty name" for each in certificates)
