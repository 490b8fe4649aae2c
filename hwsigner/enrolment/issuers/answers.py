"""Certificates in the answers of issuers: PEM texts and PKCS #7."""

from __future__ import annotations

import binascii
import re

from hwsigner.enrolment.issuers import Issued
from hwsigner.errors import CertificateError

MOST_CERTIFICATES = 64  # More would make looking for the chain slow.
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]{1,65536})-----END CERTIFICATE-----")


def from_pem(answer: bytes, source: str) -> Issued:
    """Return the certificates in a text. Anything between the PEM blocks is ignored, as openssl writes it.

    Args:
        answer: the text.
        source: what it is, for messages, such as `the output of the issuer's command`.

    Raises:
        CertificateError: there is none, there are too many, or the base64 of one is broken.
    """
    try:
        found = [binascii.a2b_base64(b"".join(block.split())) for block in _BLOCK.findall(answer)]
    except binascii.Error as error:
        problem = f"{source} has a certificate that is not base64"
        raise CertificateError(problem, "Ask the issuer's administrator") from error
    return issued(found, source)


def from_pkcs7(answer: bytes, source: str) -> list[bytes]:
    """Return the certificates of a PKCS #7 SignedData without signatures (RFC 5272, section 4.1), in DER.

    Raises:
        CertificateError: it can't be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
    from cryptography.x509 import InvalidVersion

    try:
        return [one.public_bytes(Encoding.DER) for one in load_der_pkcs7_certificates(answer)]
    except (ValueError, UnsupportedAlgorithm, InvalidVersion) as error:
        raise CertificateError(f"{source} is not PKCS #7", "Check the issuer's URL") from error


def issued(certificates: list[bytes], source: str) -> Issued:
    """Return the certificates of an answer.

    Raises:
        CertificateError: there is none, or there are too many.
    """
    if not certificates:
        raise CertificateError(f"{source} has no certificate", "It must have the certificate and its chain, in PEM")
    if len(certificates) > MOST_CERTIFICATES:
        problem = f"{source} has {len(certificates)} certificates, more than {MOST_CERTIFICATES}"
        raise CertificateError(problem, "It must have the certificate and its chain alone")
    return Issued(tuple(certificates))
