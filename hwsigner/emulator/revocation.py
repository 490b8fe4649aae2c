"""Certificate revocation lists: who signed them, and what they revoke."""

from __future__ import annotations

from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa

from hwsigner.emulator.certificates import is_issued_by
from hwsigner.emulator.refusals import denied
from hwsigner.emulator.resources import Crl, TrustAnchor

_MLDSA_KEYS = (mldsa.MLDSA44PublicKey, mldsa.MLDSA65PublicKey, mldsa.MLDSA87PublicKey)


def is_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Return whether a CA's name matches and its key signed the list."""
    key = issuer.public_key()
    try:
        if isinstance(key, _MLDSA_KEYS):
            key.verify(crl.signature, crl.tbs_certlist_bytes)
            is_valid = True
        else:
            is_valid = crl.is_signature_valid(key)  # type: ignore[arg-type]
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return is_valid and crl.issuer == issuer.subject


def check_revocation(certificates: Iterable[x509.Certificate], anchor: TrustAnchor, crls: Iterable[Crl]) -> None:
    """Check certificates that lead to a trust anchor against its enabled lists, even expired ones.

    A list is for the certificates of the CA that signed it.

    Raises:
        RefusalError: AccessDeniedException, "Certificate revoked".
    """
    certificates = list(certificates)
    for crl in crls:
        if not crl.enabled or crl.trust_anchor != anchor.arn:
            continue
        parsed = crl.parsed
        issuers = [each for each in anchor.certificates if is_signed_by(parsed, each)]
        for certificate in certificates:
            revoked = parsed.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if revoked and any(is_issued_by(certificate, issuer) for issuer in issuers):
                serial = f"{certificate.serial_number:x}"
                raise denied("Certificate revoked", f"the serial number {serial} is in the CRL {crl.name} ({crl.arn})")
