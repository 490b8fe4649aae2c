"""What is wrong between a certificate, its trust anchor, a Roles Anywhere profile, a role and revocation lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from cryptography.x509.oid import NameOID

from hwsigner._aws.create_session import SessionRequest
from hwsigner._control_plane.facts import Detail, Facts
from hwsigner._control_plane.resources import DEFAULT_DURATION, is_mapped
from hwsigner._identity.bundle import read_bundle, subjects
from hwsigner._identity.certificate import MAX_INTERMEDIATES, Certificate, Chain
from hwsigner._identity.flaws import Flaw, leaf_flaws, other_chain, path_flaws
from hwsigner._identity.revocation_list import RevocationList
from hwsigner._identity.serial_numbers import serial_text
from hwsigner._identity.session_tags import session_tags, untaggable
from hwsigner.errors import CertificateError
from hwsigner.findings import Finding, account
from hwsigner.findings.local import CHAIN_TOO_LONG

_LONGEST_PREFIXED = 61
_FIXES = {
    "names": "Reissue the certificate with names that the CA allows, or below another CA",
    "key-identifier": "Give the CA's certificate that the authorityKeyIdentifier names, or reissue the certificate",
}


def check_resources(facts: Facts, request: SessionRequest) -> Iterator[Finding]:
    """Yield what is wrong with what a session needs."""
    for error in facts.failures:
        yield account.CALL_FAILED.found(error.message, error.hint)
    yield from _check_accounts(facts, request)
    anchor, profile, role = (facts.anchor(request.trust_anchor_arn), facts.profile(request.profile_arn), facts.role)
    if anchor is not None:
        yield from _check_state("anchor", f"trust anchor {request.trust_anchor_arn}", anchor)
    if profile is not None:
        yield from _check_state("profile", f"Roles Anywhere profile {request.profile_arn}", profile)
    if profile:
        yield from _check_profile(profile, request)
    if role is not None and role.get("Arn") != request.role_arn and _account(request.role_arn) == facts.account:
        there = f"; the role of that name is {role['Arn']}" if role else ""
        yield account.ROLE_MISSING.found(f"there is no role {request.role_arn}{there}")
    if role:
        yield from _check_duration(profile or {}, role, request)


def duration_of(profile: Detail) -> int:
    """Return the longest session of a profile in seconds."""
    return int(profile.get("durationSeconds") or DEFAULT_DURATION)


def mapped_tags(tags: Mapping[str, str], profile: Detail) -> dict[str, str]:
    """Return those session tags that a profile's attribute mappings keep."""
    return {tag: value for tag, value in tags.items() if is_mapped(tag, profile)}


def origin_identity(tags: Mapping[str, str], profile: Detail) -> dict[str, str]:
    """Return what trusted identity propagation says of a certificate, if the profile enables it."""
    tip = profile.get("tipConfiguration") or {}
    if tip.get("status") != "ENABLED":
        return {}
    kind = {"SubjectType": tip["subjectType"]} if tip.get("subjectType") else {}
    subject = tags.get(origin_source(profile))
    return {**kind, **({"Subject": subject} if subject else {})}


def origin_source(profile: Detail) -> str:
    """Return the tag that gives the subject of trusted identity propagation; empty if the profile has none."""
    tip = profile.get("tipConfiguration") or {}
    return str(tip.get("subjectSource") or "x509Subject/CN") if tip.get("status") == "ENABLED" else ""


def _account(arn: str) -> str:
    return arn.split(":")[4]


def _check_accounts(facts: Facts, request: SessionRequest) -> Iterator[Finding]:
    if facts.account is None:
        return
    for what, arn in (
        ("the trust anchor", request.trust_anchor_arn),
        ("the Roles Anywhere profile", request.profile_arn),
        ("the role", request.role_arn),
    ):
        if _account(arn) != facts.account:
            yield account.ACCOUNT_OTHER.found(f"{what} is {arn}, and the credentials are for account {facts.account}")


def _check_state(kind: str, name: str, detail: Detail) -> Iterator[Finding]:
    if not detail:
        missing = account.ANCHOR_MISSING if kind == "anchor" else account.PROFILE_MISSING
        yield missing.found(f"there is no {name} for these credentials")
    elif not detail.get("enabled"):
        member = "trustAnchorId" if kind == "anchor" else "profileId"
        command = "trust-anchor" if kind == "anchor" else "profile"
        hint = f"If it should be in use: aws rolesanywhere enable-{command} --{command}-id {detail.get(member, 'ID')}"
        disabled = account.ANCHOR_DISABLED if kind == "anchor" else account.PROFILE_DISABLED
        yield disabled.found(f"{name} ({detail.get('name', '')}) is disabled", hint)


def _check_profile(profile: Detail, request: SessionRequest) -> Iterator[Finding]:
    roles = profile.get("roleArns", ())
    if request.role_arn not in roles:
        listed = ", ".join(roles) or "none"
        yield account.PROFILE_WITHOUT_ROLE.found(
            f"the Roles Anywhere profile does not list {request.role_arn}; its roles: {listed}"
        )
    if request.session_name and not profile.get("acceptRoleSessionName"):
        found = f"the session name is {request.session_name!r}, and the Roles Anywhere profile accepts no names"
        yield account.SESSION_NAME_REFUSED.found(found)
    if request.duration > duration_of(profile):
        found = (
            f"session-duration is {request.duration} s, and the Roles Anywhere profile's is {duration_of(profile)} s"
        )
        yield account.DURATION_SHORTENED.found(found)


def _check_duration(profile: Detail, role: Detail, request: SessionRequest) -> Iterator[Finding]:
    longest = role.get("MaxSessionDuration", DEFAULT_DURATION)
    duration = min(request.duration, duration_of(profile)) if profile else request.duration
    if duration > longest:
        yield account.DURATION_OVER_ROLE.found(f"sessions would last {duration} s, and the role allows {longest} s")


def check_certificate(chain: Chain, now: datetime) -> Iterator[Finding]:
    """Yield why the service refuses a certificate, or may refuse it, whatever AWS has."""
    for flaw in leaf_flaws(chain.leaf, now):
        mistake = account.CERTIFICATE_REFUSED if flaw.is_documented else account.CERTIFICATE_DOUBTFUL
        yield mistake.found(f"certificate {chain.leaf.source} {flaw.problem}")


def check_trust(
    chain: Chain,
    anchor: Detail,
    authorities: Sequence[Certificate],
    now: datetime,
    *,
    others: Sequence[Certificate] = (),
) -> Iterator[Finding]:
    """Yield why a certificate does not chain to a trust anchor.

    `others` are the certificates that the chain was chosen from.
    """
    name = f"trust anchor {anchor.get('name', '')}"
    if (number := len(chain.intermediates)) > MAX_INTERMEDIATES:
        found = (
            f"certificate {chain.leaf.source} has {number} intermediates and the service accepts {MAX_INTERMEDIATES}"
        )
        yield CHAIN_TOO_LONG.found(found)
    if not authorities:
        kind = anchor.get("source", {}).get("sourceType", "")
        yield account.ANCHOR_NOT_JUDGED.found(f"{name} has the source {kind}, whose certificates were not read")
        return
    flaws = path_flaws(chain, authorities, now)
    is_refused = flaws is None or any(each.is_documented for each in flaws)
    if is_refused and (better := other_chain(chain, others, authorities, now)):
        found = f"hwsigner sends {_path(chain)}, and to {name} leads {_path(better)}"
        yield account.CHAIN_OTHER.found(found)
        return
    if flaws is None:
        issuer = chain.certificates[-1].x509.issuer.rfc4514_string()
        found = f"certificate {chain.leaf.subject} was issued by {issuer}, and {name} has {subjects(authorities)}"
        yield account.CHAIN_UNTRUSTED.found(found)
    for flaw in flaws or ():
        yield _flaw_of_ca(flaw, name if any(flaw.certificate is each for each in authorities) else "")


def _path(chain: Chain) -> str:
    """Return what is sent of a chain, in words."""
    names = [f"{each.subject} issued by {each.x509.issuer.rfc4514_string()}" for each in chain.intermediates]
    return " and ".join(names) or "no intermediate"


def _flaw_of_ca(flaw: Flaw, anchor: str) -> Finding:
    """Return the finding for what is wrong with an intermediate, or with a CA of the trust anchor if that is named."""
    found = f"CA {flaw.certificate.subject} of {anchor} {flaw.problem}"
    if not anchor:
        found = f"intermediate {flaw.certificate.subject} ({flaw.certificate.source}) {flaw.problem}"
    if not flaw.is_documented:
        return account.CERTIFICATE_DOUBTFUL.found(found, _FIXES.get(flaw.rule, ""))
    if anchor and flaw.rule == "expired":
        return account.ANCHOR_CA_EXPIRED.found(found)
    return (account.ANCHOR_CA_REFUSED if anchor else account.INTERMEDIATE_REFUSED).found(found)


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
        tag = problem.split(" ")[0]
        if is_mapped(tag, profile):
            yield account.TAG_REFUSED.found(problem)
        elif tag == "x509Subject/CN":
            yield account.TAG_REFUSED.found(f"{problem}. It is not mapped, but the source identity is made of it, too")
    source = origin_source(profile)
    if source and source not in mapped_tags(session_tags(chain.leaf), profile):
        yield account.ORIGIN_MISSING.found(
            f"{source} is not in the certificate, or the Roles Anywhere profile does not map it"
        )


def check_lists(chain: Chain | None, anchor: Detail, facts: Facts, now: datetime) -> Iterator[Finding]:
    """Yield what is wrong with the revocation lists of a trust anchor, and whether they revoke the certificate."""
    for crl in facts.crls or ():
        if crl.get("trustAnchorArn") in (anchor.get("trustAnchorArn"), anchor.get("aliasArn")):
            yield from _check_list(chain, crl, trusted(anchor, facts), now)


def _check_list(
    chain: Chain | None, crl: Detail, authorities: Sequence[Certificate], now: datetime
) -> Iterator[Finding]:
    name = f"revocation list {crl.get('name', '')} ({crl.get('crlId', '')})"
    try:
        contents = RevocationList.read(crl.get("crlData", b""), name)
    except CertificateError as error:
        yield account.CRL_NOT_JUDGED.found(error.message)
        return
    certificates = chain.certificates if chain else ()
    revoked = [each.subject for each in certificates if _is_revoked(each, contents, authorities)]
    if not crl.get("enabled"):
        also = f", and would revoke {' and '.join(revoked)}" if revoked else ""
        hint = f"If it is the CA's: aws rolesanywhere enable-crl --crl-id {crl.get('crlId', 'ID')}"
        yield account.CRL_DISABLED.found(f"{name} is not enabled{also}", hint)
        return
    naming = [each for each in (*authorities, *certificates) if contents.names_issuer(each)]
    if naming and not any(map(contents.is_signed_by, naming)):
        yield account.CRL_NOT_JUDGED.found(f"{name} has the name of {naming[0].subject}, whose key did not sign it")
        return
    for subject in revoked:
        yield account.CERTIFICATE_REVOKED.found(f"{name} revokes {subject}")
    if authorities and not any(contents.x509.issuer == each.x509.subject for each in (*authorities, *certificates)):
        issuer = contents.x509.issuer.rfc4514_string()
        yield account.CRL_OTHER_CA.found(f"{name} is of {issuer}, which is not a CA of the trust anchor")
    for words in contents.limits:
        yield account.CRL_DOUBTFUL.found(f"{name} {words}")
    start, end = contents.x509.last_update_utc, contents.x509.next_update_utc
    if start > now:
        yield account.CRL_DOUBTFUL.found(f"{name} is valid from {start:%Y-%m-%dT%H:%M:%SZ} only (thisUpdate)")
    if end and end < now:
        yield account.CRL_OUTDATED.found(f"{name} should have been replaced by {end:%Y-%m-%dT%H:%M:%SZ} (nextUpdate)")


def _is_revoked(certificate: Certificate, crl: RevocationList, authorities: Sequence[Certificate]) -> bool:
    if crl.x509.issuer != certificate.x509.issuer or certificate.x509.serial_number not in crl.revoked:
        return False
    # Another CA may have the same name.
    return not any(crl.is_signed_by(each) and not each.issued(certificate) for each in authorities)


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
