"""Bundles of CA certificates in PEM, as trust anchors have them."""

from __future__ import annotations

from hwsigner.errors import CertificateError
from hwsigner.identity.certificate import Certificate, load
from hwsigner.key import FoundCertificate


def read_bundle(pem: str | bytes, source: str) -> list[Certificate]:
    """Return the certificates of a bundle, in order.

    Args:
        pem: the bundle. What is between the certificates does not count.
        source: where it is from, for messages.

    Raises:
        CertificateError: it has no readable certificate.

    Warns:
        CertificateWarning: one can't be read. The others are returned.
    """
    from asn1crypto.pem import unarmor

    data = pem.encode() if isinstance(pem, str) else pem
    try:
        blocks = [der for label, _, der in unarmor(data, multiple=True) if label == "CERTIFICATE"]
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{source} has no certificates in PEM", "It may be damaged") from error
    if not blocks:
        raise CertificateError(f"{source} has no certificates in PEM", "It may be damaged")
    return load([FoundCertificate(der, source) for der in blocks])
