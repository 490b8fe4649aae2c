"""What is wrong with a trust anchor, a profile and a role, whatever the certificate is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hwsigner.aws.create_session import SessionRequest
from hwsigner.control_plane.facts import Detail, Facts
from hwsigner.control_plane.resources import DEFAULT_DURATION
from hwsigner.findings import Finding, account


def check_resources(facts: Facts, request: SessionRequest) -> Iterator[Finding]:
    """Yield what is wrong with what a session needs.

    Args:
        facts: what AWS has.
        request: the session.
    """
    for error in facts.failures:
        yield account.CALL_FAILED.found(error.message, error.hint)
    yield from _check_accounts(facts, request)
    anchor, profile, role = (
        facts.anchor(request.trust_anchor_arn),
        facts.profile(request.profile_arn),
        facts.role,
    )
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


def is_mapped(tag: str, profile: Detail) -> bool:
    """Return whether a profile's attribute mappings make a session tag, such as x509Subject/CN."""
    mappings = profile.get("attributeMappings")
    if mappings is None:
        return True
    field, _, name = tag.partition("/")
    for mapping in mappings:
        specifiers = [rule["specifier"] for rule in mapping.get("mappingRules", ())]
        if mapping["certificateField"].lower() == field.lower() and _is_among(name, specifiers):
            return True
    return False


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


def _is_among(name: str, specifiers: Sequence[str]) -> bool:
    name = name.lower()
    every = {"name", "name/", "name/*"} if name.startswith("name/") else {"*"}
    return any(each.lower() == name or each.lower() in every for each in specifiers)


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
        found = f"role-session-name is {request.session_name!r}, and the Roles Anywhere profile accepts no names"
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
