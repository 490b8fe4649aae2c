"""Whether a session is possible, who else may have one, and what is wrong: from what AWS has, without any call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from hwsigner._aws.create_session import SessionRequest
from hwsigner._control_plane import checks
from hwsigner._control_plane.facts import Detail, Facts
from hwsigner._control_plane.resources import DEFAULT_DURATION, is_mapped
from hwsigner._identity.certificate import Certificate, Chain
from hwsigner._identity.session_tags import session_tags
from hwsigner.errors import ConfigError
from hwsigner.findings import LEVELS, Finding, account
from hwsigner.trust_policy import ACTIONS, Context, Decision, TrustPolicy, request_context
from hwsigner.trust_policy.openness import ANY_ANCHOR, named_anchors, named_tags
from hwsigner.trust_policy.reading import Reader
from hwsigner.trust_policy.review import review
from hwsigner.trust_policy.sentences import admitted_anchors, who_may_assume
from hwsigner.trust_policy.writing import SIZE_LIMIT


@dataclass(frozen=True)
class Report:
    """What was found."""

    facts: dict[str, list[str]] = field(default_factory=dict)  # Sentences, by their subject, such as "trust anchor".
    decisions: Sequence[Decision] = ()  # Whether this certificate may do each action; empty if that is not known.
    findings: Sequence[Finding] = ()


def report(
    facts: Facts,
    request: SessionRequest,
    chain: Chain | None,
    now: datetime,
    *,
    others: Sequence[Certificate] = (),
) -> Report:
    """Compare what AWS has with a session, and with a certificate and its intermediates if there is one.

    The others are the certificates that the chain was chosen from.
    """
    anchor, profile = facts.anchor(request.trust_anchor_arn) or {}, facts.profile(request.profile_arn) or {}
    authorities, role = checks.trusted(anchor, facts), facts.role or {}
    role = role if role.get("Arn") == request.role_arn else {}
    document = _document(role)
    findings = [*checks.check_resources(facts, request), *checks.check_lists(chain, anchor, facts, now)]
    if chain:
        findings += checks.check_certificate(chain, now)
        findings += checks.check_trust(chain, anchor, authorities, now, others=others) if anchor else ()
        findings += checks.check_tags(chain, profile) if profile else ()
        findings += checks.check_subject(chain, facts.subject or {})
    decisions: list[Decision] = []
    if role:
        findings += review(document, trust_anchor=_canonical(anchor, request), now=now)
        findings += _check_mappings(document, profile)
        findings += _check_issuers(document, [each for each in authorities if each.x509.not_valid_after_utc >= now])
        context = chain and _context(chain, profile, _canonical(anchor, request), request.session_name, now)
        decisions = list(_decisions(document, context)) if context else []
        findings += _refusals(document, context, decisions) if context else ()
    findings.sort(key=lambda each: LEVELS.index(each.level))
    return Report(_facts(facts, request, chain, role, authorities), decisions, findings)


def report_policy(
    document: bytes, chain: Chain | None, now: datetime, *, trust_anchor: str = "", session_name: str | None = None
) -> Report:
    """Review a trust policy without AWS.

    The document may be anything that a file has. An empty trust anchor is one that the policy names; a session name of
    None is the service's.
    """
    try:
        policy = json.loads(document)
    except (ValueError, RecursionError):
        policy = None
    findings = review(document, trust_anchor=trust_anchor, now=now, size_limit=SIZE_LIMIT)
    decisions: list[Decision] = []
    facts: dict[str, list[str]] = {}
    if isinstance(policy, Mapping):
        if sentences := who_may_assume(policy):
            facts["who may assume it"] = sentences
        if chain:
            facts["certificate"] = [chain.leaf.subject]
            anchor = trust_anchor or next(iter(named_anchors(Reader(policy).statements)), ANY_ANCHOR)
            context = _context(chain, {}, anchor, session_name, now)
            decisions = list(_decisions(document, context))
            findings += _refusals(document, context, decisions)
    return Report(facts, decisions, findings)


def compared_values(document: bytes) -> list[tuple[str, str]]:
    """Return the keys of a trust policy's conditions, each with a value; nothing of what can't be read."""
    try:
        policy = json.loads(document)
    except (ValueError, RecursionError):
        return []
    statements = Reader(policy).statements if isinstance(policy, Mapping) else []
    return [(each.key, value) for one in statements for each in one.conditions for value in each.values]


def _document(role: Detail) -> Detail:
    """Return a role's trust policy; empty if it is not an object."""
    document = role.get("AssumeRolePolicyDocument")
    return document if isinstance(document, Mapping) else {}


def _canonical(anchor: Detail, request: SessionRequest) -> str:
    """Return a trust anchor's ARN, which is never an alias in a request to STS."""
    return str(anchor.get("trustAnchorArn") or request.trust_anchor_arn)


def _check_mappings(document: Detail, profile: Detail) -> Iterator[Finding]:
    for tag in named_tags(document) if profile else ():
        if tag.lower().startswith("x509") and not is_mapped(tag, profile):
            yield account.TAG_UNMAPPED.found(
                f"the trust policy compares {tag}, which the Roles Anywhere profile does not map"
            )


def _check_issuers(document: Detail, authorities: Sequence[Certificate]) -> Iterator[Finding]:
    subjects = list(dict.fromkeys(each.subject for each in authorities))
    tags = named_tags(document)
    if len(subjects) > 1 and tags and not any(tag.lower().startswith("x509issuer/") for tag in tags):
        yield account.CAS_SEVERAL.found(
            f"the trust policy does not compare the CA, and there are {', '.join(subjects)}"
        )


def _context(chain: Chain, profile: Detail, trust_anchor: str, session_name: str | None, now: datetime) -> Context:
    """Return the keys and values of a request with a certificate, by the mappings of a profile."""
    tags = checks.mapped_tags(session_tags(chain.leaf), profile)
    return request_context(
        trust_anchor=trust_anchor,
        tags=tags,
        origin_identity=checks.origin_identity(tags, profile),
        session_name=session_name or checks.serial_name(chain),
        source_identity=checks.source_identity(chain),
        now=now,
    )


def _decisions(document: Detail | bytes, context: Context) -> Iterator[Decision]:
    """Judge each action. Nothing is judged if the policy has a part that is not known: the review has that."""
    try:
        policy = TrustPolicy(document)
    except ConfigError:
        return
    for action in ACTIONS:
        yield policy.decide(action, context)


def _refusals(document: Detail | bytes, context: Context, decisions: Sequence[Decision]) -> Iterator[Finding]:
    """Yield why actions are refused, unless that depends on which keys they have: the review has that."""
    refused = [each for each in decisions if not each.allowed]
    reasons: dict[str, list[str]] = {}
    for each in refused:
        if not TrustPolicy(document).decide(each.action, context, every_key=True).allowed:
            reasons.setdefault(each.reason, []).append(each.action)
    for reason, actions in reasons.items():
        yield account.ROLE_REFUSES.found(f"this certificate may not do {', '.join(actions)}: {reason}")


def _facts(
    facts: Facts, request: SessionRequest, chain: Chain | None, role: Detail, authorities: Sequence[Certificate]
) -> dict[str, list[str]]:
    anchor, profile = facts.anchor(request.trust_anchor_arn) or {}, facts.profile(request.profile_arn) or {}
    document = _document(role)
    sections = {
        "trust anchor": list(_of_anchor(anchor, facts, authorities)) if anchor else [],
        "profile": list(_of_profile(profile)) if profile else [],
        "role": [_of_role(role)] if role else [],
        "who may assume it": who_may_assume(document),
        "ways to the role": list(_ways(facts, document, request.role_arn)) if role else [],
        "certificate": list(_of_certificate(chain, facts)) if chain else ["none was given, so none was compared"],
    }
    return {name: sentences for name, sentences in sections.items() if sentences}


def _state(detail: Detail) -> str:
    return "enabled" if detail.get("enabled") else "disabled"


def _of_anchor(anchor: Detail, facts: Facts, authorities: Sequence[Certificate]) -> Iterator[str]:
    yield f"{anchor.get('name', '')}, {_state(anchor)}"
    for each in authorities:
        yield f"CA {each.subject}, until {each.x509.not_valid_after_utc:%Y-%m-%d}"
    lists = [each for each in facts.crls or () if each.get("trustAnchorArn") == anchor.get("trustAnchorArn")]
    for crl in lists:
        yield f"revocation list {crl.get('name', '')}, {_state(crl)}"
    if facts.crls is not None and not lists:
        yield "no revocation list"
    if anchor.get("crlDpRevocationEnabled"):
        yield "the service also fetches the lists that certificates name (crlDpRevocationEnabled)"


def _of_profile(profile: Detail) -> Iterator[str]:
    names = "accepts" if profile.get("acceptRoleSessionName") else "does not accept"
    duration = checks.duration_of(profile)
    yield f"{profile.get('name', '')}, {_state(profile)}, sessions of {duration} s, {names} session names"
    mappings = profile.get("attributeMappings")
    for each in mappings or ():
        rules = ", ".join(rule["specifier"] for rule in each.get("mappingRules", ()))
        yield f"maps {each['certificateField']}: {rules}"


def _of_role(role: Detail) -> str:
    boundary = role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn")
    limit = f", permissions boundary {boundary}" if boundary else ""
    return f"{role['RoleName']}, sessions of up to {role.get('MaxSessionDuration', DEFAULT_DURATION)} s{limit}"


def _ways(facts: Facts, document: Detail, role_arn: str) -> Iterator[str]:
    """Yield the enabled trust anchors and profiles of the region by which sessions of a role are possible."""
    enabled = {each["trustAnchorArn"]: each for each in facts.anchors or () if each.get("enabled")}
    admitted = admitted_anchors(document, list(enabled))
    if facts.anchors is not None and not admitted:
        yield "no enabled trust anchor of the region"
    for arn in sorted(admitted, key=lambda arn: (enabled[arn].get("name", ""), arn)):
        yield f"trust anchor {enabled[arn].get('name', '')} ({arn.rpartition('/')[2]})"
    for each in sorted(facts.profiles or (), key=lambda each: (each.get("name", ""), each["profileArn"])):
        if each.get("enabled") and role_arn in each.get("roleArns", ()):
            yield f"Roles Anywhere profile {each.get('name', '')} ({each['profileArn'].rpartition('/')[2]})"


def _of_certificate(chain: Chain, facts: Facts) -> Iterator[str]:
    leaf = chain.leaf.x509
    yield f"{chain.leaf.subject}, serial number {leaf.serial_number:x}, until {leaf.not_valid_after_utc:%Y-%m-%d}"
    if facts.subject is None:
        return
    if not facts.subject:
        yield "the service has not seen this subject"
        return
    yield f"the service last saw this subject at {checks.time_of(facts.subject.get('lastSeenAt'))}"
    seen = checks.credential_of(chain, facts.subject)
    yield (
        f"it last saw this certificate at {checks.time_of(seen['seenAt'])}"
        if seen.get("seenAt")
        else "it has not seen this certificate"
    )
