"""Certificate requests (PKCS #10, RFC 2986) that go with a statement.

They are parsed by asn1crypto: `cryptography` refuses what OpenSSL writes for a key of tpm2-openssl.
"""

from __future__ import annotations

from asn1crypto import pem
from asn1crypto.csr import CertificationRequest

from hwsigner.attestation.chain import UNREADABLE, in_usual_form, verifies
from hwsigner.errors import UsageError


def read_request(data: bytes) -> bytes:
    """Return the DER of a request in PEM or DER."""
    try:
        der: bytes = pem.unarmor(data)[2] if pem.detect(data) else data
        parsed = CertificationRequest.load(der, strict=True)
        info = parsed["certification_request_info"]
        # Not the public key, whose kind asn1crypto may not know: ML-DSA.
        _ = [part.native for part in (info["version"], info["subject"], info["attributes"], parsed["signature"])]
    except UNREADABLE as error:
        raise UsageError("the certificate request can't be read", "Give a PKCS #10 request in PEM or DER") from error
    return der


def is_signed_by(public_key: bytes, request: bytes) -> bool:
    """Return whether a request (DER) is for a public key (DER SubjectPublicKeyInfo) and signed by its private key."""
    try:
        parsed = CertificationRequest.load(request, strict=True)
        info, signature = parsed["certification_request_info"], parsed["signature"].native
        if in_usual_form(info["subject_pk_info"].dump()) != public_key:
            return False
        return verifies(public_key, parsed["signature_algorithm"], signature, info.dump())
    except UNREADABLE:
        return False
