"""What is wrong between a certificate, its trust anchor, the profile's mappings and the revocation lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from cryptography.x509.oid import NameOID

from hwsigner.control_plane.facts import Detail, Facts
from hwsigner.control_plane.resource_checks import is_mapped, mapped_tags, origin_source
from hwsigner.errors import CertificateError
from hwsigner.findings import Finding, account
from hwsigner.identity.bundle import read_bundle, subjects
from hwsigner.identity.certificate import Certificate, Chain, preflight
from hwsigner.identity.revocation_list import RevocationList
from hwsigner.identity.serial_numbers import serial_text
from hwsigner.identity.session_tags import session_tags, untaggable

_LONGEST_PREFIXED = 61


def check_certificate(chain: Chain, now: datetime) -> Iterator[Finding]:
    """Yield why the service refuses a certificate, whatever AWS has."""
    try:
        preflight(chain.leaf, now)
    except CertificateError as error:
        yield account.CERTIFICATE_REFUSED.found(error.message)


def check_trust(chain: Chain, anchor: Detail, authorities: Sequence[Certificate], now: datetime) -> Iterator[Finding]:
    """Yield why a certificate does not chain to a trust anchor.

    Args:
        chain: the certificate and its intermediates.
        anchor: the trust anchor.
        authorities: its certificates.
        now: the time, with its zone.
    """
    name = f"trust anchor {anchor.get('name', '')}"
    if not authorities:
        kind = anchor.get("source", {}).get("sourceType", "")
        yield account.ANCHOR_NOT_JUDGED.found(f"{name} has the source {kind}, whose certificates were not read")
        return
    issuers = [ca for ca in authorities for each in chain.certificates if ca.issued(each)]
    if not issuers:
        issuer = chain.certificates[-1].x509.issuer.rfc4514_string()
        found = f"certificate {chain.leaf.subject} was issued by {issuer}, and {name} has {subjects(authorities)}"
        yield account.CHAIN_UNTRUSTED.found(found)
    elif all(each.x509.not_valid_after_utc < now for each in issuers):
        expiry = f"{issuers[0].x509.not_valid_after_utc:%Y-%m-%d}"
        yield account.ANCHOR_CA_EXPIRED.found(f"CA {issuers[0].subject} of {name} expired on {expiry}")


def trusted(anchor: Detail, facts: Facts) -> list[Certificate]:
    """Return the certificates of a trust anchor's bundle or private CA; empty if they could not be read."""
    text = anchor.get("source", {}).get("sourceData", {}).get("x509CertificateData") or facts.private_ca or ""
    try:
        return read_bundle(text, f"trust anchor {anchor.get('name', '')}") if text else []
    except CertificateError:
        return []


def check_tags(chain: Chain, profile: Detail) -> Iterator[Finding]:
    """Yield the names of a certificate that a profile maps, and that can't become session tags."""
    for problem in untaggable(chain.leaf):
        if is_mapped(problem.split(" ")[0], profile):
            yield account.TAG_REFUSED.found(problem)
    source = origin_source(profile)
    if source and source not in mapped_tags(session_tags(chain.leaf), profile):
        yield account.ORIGIN_MISSING.found(
            f"{source} is not in the certificate, or the Roles Anywhere profile does not map it"
        )


def check_lists(chain: Chain | None, anchor: Detail, facts: Facts, now: datetime) -> Iterator[Finding]:
    """Yield what is wrong with the revocation lists of a trust anchor, and whether they revoke the certificate."""
    for crl in facts.crls or ():
        if crl.get("trustAnchorArn") in (anchor.get("trustAnchorArn"), anchor.get("aliasArn")):
            yield from _check_list(chain, crl, now)


def _check_list(chain: Chain | None, crl: Detail, now: datetime) -> Iterator[Finding]:
    name = f"revocation list {crl.get('name', '')} ({crl.get('crlId', '')})"
    try:
        contents = RevocationList.read(crl.get("crlData", b""), name)
    except CertificateError as error:
        yield account.CRL_NOT_JUDGED.found(error.message)
        return
    revoked = [each.subject for each in (chain.certificates if chain else ()) if _is_revoked(each, contents)]
    if not crl.get("enabled"):
        also = f", and would revoke {' and '.join(revoked)}" if revoked else ""
        hint = f"If it is the CA's: aws rolesanywhere enable-crl --crl-id {crl.get('crlId', 'ID')}"
        yield account.CRL_DISABLED.found(f"{name} is not enabled{also}", hint)
        return
    for subject in revoked:
        yield account.CERTIFICATE_REVOKED.found(f"{name} revokes {subject}")
    end = contents.x509.next_update_utc
    if end and end < now:
        yield account.CRL_OUTDATED.found(f"{name} should have been replaced by {end:%Y-%m-%dT%H:%M:%SZ} (nextUpdate)")


def _is_revoked(certificate: Certificate, crl: RevocationList) -> bool:
    return crl.x509.issuer == certificate.x509.issuer and certificate.x509.serial_number in crl.revoked


def check_subject(chain: Chain, subject: Detail) -> Iterator[Finding]:
    """Yield what the service says against a certificate that it has seen."""
    if not subject:
        return
    if not subject.get("enabled", True):
        yield account.SUBJECT_DISABLED.found(f"the service's subject {subject.get('x509Subject', '')} is disabled")
    seen = credential_of(chain, subject)
    if seen.get("failed"):
        yield account.CERTIFICATE_FAILED.found(
            f"the certificate's last request, at {time_of(seen.get('seenAt'))}, failed"
        )


def credential_of(chain: Chain, subject: Detail) -> Detail:
    """Return what the service has seen of a certificate, by its serial number; empty if nothing."""
    number = chain.leaf.x509.serial_number
    texts = {f"{number}", f"{number:x}", f"{number:02x}", f"0{number:x}"}
    seen = [each for each in subject.get("credentials", ()) if _plain(each.get("serialNumber", "")) in texts]
    return max(seen, key=lambda each: str(each.get("seenAt", "")), default={})


def _plain(serial: str) -> str:
    return serial.lower().replace(":", "").removeprefix("0x")


def source_identity(chain: Chain) -> str:
    """Return the source identity of a certificate's sessions, by the Roles Anywhere User Guide."""
    names = [str(each.value) for each in chain.leaf.x509.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    name = "/".join(names)
    if not name:
        return f"ID={serial_name(chain)}"
    return f"CN={name}" if len(name) <= _LONGEST_PREFIXED else name


def serial_name(chain: Chain) -> str:
    """Return the session name that the service gives by default: the serial number in hexadecimal."""
    return serial_text(chain.leaf.x509.serial_number).replace(":", "").lower()


def time_of(seen: object) -> str:
    """Return a time of boto3's as text."""
    if isinstance(seen, datetime):
        return f"{seen.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return str(seen or "an unknown time")
