"""Revocation in AWS Private CA, which makes its own CRLs."""

from __future__ import annotations

from hwsigner.aws.apis import ServiceClient
from hwsigner.identity.bundle import read_bundle
from hwsigner.identity.certificate import Certificate
from hwsigner.identity.serial_numbers import serial_text

_ALREADY = frozenset({"RequestAlreadyProcessedException"})
# The API's names for those of RFC 5280.
_REASONS = {
    "unspecified": "UNSPECIFIED",
    "keyCompromise": "KEY_COMPROMISE",
    "cACompromise": "CERTIFICATE_AUTHORITY_COMPROMISE",
    "affiliationChanged": "AFFILIATION_CHANGED",
    "superseded": "SUPERSEDED",
    "cessationOfOperation": "CESSATION_OF_OPERATION",
    "privilegeWithdrawn": "PRIVILEGE_WITHDRAWN",
    "aACompromise": "A_A_COMPROMISE",
}


def read_ca(client: ServiceClient, authority: str) -> Certificate:
    """Return a CA's certificate.

    Args:
        client: the client of acm-pca.
        authority: the CA's ARN.

    Raises:
        HwsignerError: as `ServiceClient.call`, or the certificate can't be read.
    """
    found = client.call("get_certificate_authority_certificate", CertificateAuthorityArn=authority)
    return read_bundle(found["Certificate"], authority)[0]


def revoke(client: ServiceClient, authority: str, serial: int, reason: str) -> bool:
    """Revoke a certificate; return whether it was not revoked already.

    Args:
        client: the client of acm-pca.
        authority: the CA's ARN.
        serial: the certificate's serial number.
        reason: why, one of `hwsigner.identity.next_revocation_list.REASONS`.

    Raises:
        HwsignerError: as `ServiceClient.call`.
    """
    parameters = {"CertificateSerial": serial_text(serial), "RevocationReason": _REASONS[reason]}
    done = client.call_unless(_ALREADY, "revoke_certificate", CertificateAuthorityArn=authority, **parameters)
    return done is not None
