"""What is to be done for a set-up: from what there is and what is wanted to calls of AWS's APIs. Nothing is called."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hwsigner.control_plane.resources import Existing, Profile, Role, TrustAnchor, without
from hwsigner.control_plane.statements import difference, lets_in_otherwise, refusal, with_statement
from hwsigner.control_plane.wanted import DEFAULT_DURATION, Wanted
from hwsigner.identity.bundle import subjects, write_bundle
from hwsigner.identity.certificate import Certificate
from hwsigner.trust_policy.writing import in_words

# The ARNs of what is not made yet, in a plan that is shown.
NEW_ANCHOR = "arn:aws:rolesanywhere:REGION:ACCOUNT:trust-anchor/NEW"
_NEW_ROLE = "arn:aws:iam::ACCOUNT:role/NEW"


@dataclass(frozen=True)
class Step:
    """A call of an API.

    Attributes:
        resource: what it makes or changes: "trust anchor", "role" or "profile".
        words: what it does, for the user.
        service: the name of the client in `ServiceClients`.
        operation: the operation's name in boto3.
        parameters: its parameters.
        lines: the difference in the trust policy, if there is one.
    """

    resource: Literal["trust anchor", "role", "profile"]
    words: str
    service: str
    operation: str
    parameters: dict[str, Any] = field(repr=False)
    lines: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The first of the words, such as "create 'web'"."""
        return self.words.partition(":")[0].partition(",")[0]


def plan(existing: Existing, wanted: Wanted) -> list[Step]:
    """Return the calls that are to be made, in order. The ARNs of new resources are made up.

    Raises:
        UsageError: the trust policy would be too large.
    """
    anchor_arn = existing.anchor.arn if existing.anchor else NEW_ANCHOR
    role_arn = existing.role.arn if existing.role else ""
    return [
        *_of_anchor(existing.anchor, wanted),
        *_of_role(existing.role, wanted, anchor_arn, _duration(existing.profile, wanted)),
        *_of_profile(existing.profile, wanted, role_arn),
    ]


def notes(existing: Existing, wanted: Wanted) -> list[str]:
    """Return what the user should know besides the steps."""
    found = []
    anchor_arn = existing.anchor.arn if existing.anchor else NEW_ANCHOR
    if existing.role is None and not wanted.policies:
        found.append("the new role has no permissions: give some with --policy, or with aws iam attach-role-policy")
    before = existing.role.trust_policy if existing.role else None
    if before is not None and lets_in_otherwise(before, wanted.tags, anchor_arn):
        found.append("the role's trust policy lets these certificates in already, and maybe others: it stays as it is")
    policy = with_statement(before, wanted.tags, anchor_arn)
    if reason := refusal(policy, wanted.tags, anchor_arn):
        found.append(f"the role will still refuse these certificates: {reason}")
    anchor = existing.anchor
    if anchor and not anchor.missing(wanted) and (others := without(anchor.bundle or (), wanted.cas)):
        found.append(f"the trust anchor also trusts {subjects(others)}")
    if existing.profile and (rest := len({*existing.profile.roles} - {existing.role.arn if existing.role else ""})):
        found.append(f"the profile also has {rest} other role{'s' if rest > 1 else ''}")
    return found


def _duration(profile: Profile | None, wanted: Wanted) -> int:
    return wanted.duration or (profile.duration if profile else DEFAULT_DURATION)


def _of_anchor(anchor: TrustAnchor | None, wanted: Wanted) -> Iterator[Step]:
    if anchor is None:
        words = f"create {wanted.name!r}, which trusts {subjects(wanted.cas)}"
        parameters = {"name": wanted.name, "source": _source(wanted.cas), "enabled": True}
        yield Step("trust anchor", words, "rolesanywhere", "create_trust_anchor", parameters)
        return
    if new := anchor.missing(wanted):
        words = (
            f"add {subjects(new)} to {anchor.name!r}, beside {subjects(anchor.bundle or ())}:"
            " every role that trusts this trust anchor trusts certificates of both"
        )
        parameters = {"trustAnchorId": anchor.id, "source": _source([*(anchor.bundle or ()), *new])}
        yield Step("trust anchor", words, "rolesanywhere", "update_trust_anchor", parameters)
    if not anchor.enabled:
        words = f"enable {anchor.name!r}, which is disabled: every role that trusts it can be assumed again"
        yield Step("trust anchor", words, "rolesanywhere", "enable_trust_anchor", {"trustAnchorId": anchor.id})


def _of_role(role: Role | None, wanted: Wanted, anchor_arn: str, duration: int) -> Iterator[Step]:
    before = role.trust_policy if role else None
    after = with_statement(before, wanted.tags, anchor_arn)
    who = f"certificates of the trust anchor with {in_words(wanted.tags)}"
    lines = tuple(difference(before, after))
    named: dict[str, Any] = {"RoleName": wanted.role}
    if role is None:
        longest = {"MaxSessionDuration": max(duration, DEFAULT_DURATION)}
        parameters = {**named, "AssumeRolePolicyDocument": json.dumps(after), **longest}
        yield Step("role", f"create {wanted.role!r}, which {who} may assume", "iam", "create_role", parameters, lines)
    elif after != before:
        words = f"widen the trust policy of {wanted.role!r}: {who} may assume it, too"
        parameters = {**named, "PolicyDocument": json.dumps(after)}
        yield Step("role", words, "iam", "update_assume_role_policy", parameters, lines)
    if role and role.max_session_duration < duration:
        words = f"raise MaxSessionDuration of {wanted.role!r} from {role.max_session_duration} to {duration} seconds"
        yield Step("role", words, "iam", "update_role", {**named, "MaxSessionDuration": duration})
    for arn in dict.fromkeys(wanted.policies):
        if role is None or arn not in role.policies:
            words = f"attach {arn} to {wanted.role!r}"
            yield Step("role", words, "iam", "attach_role_policy", {**named, "PolicyArn": arn})


def _of_profile(profile: Profile | None, wanted: Wanted, role_arn: str) -> Iterator[Step]:
    if profile is None:
        duration = wanted.duration or DEFAULT_DURATION
        words = f"create {wanted.name!r} with the role {wanted.role!r}, and sessions of at most {duration} seconds"
        parameters = {
            "name": wanted.name,
            "roleArns": [role_arn or _NEW_ROLE],
            "durationSeconds": duration,
            "enabled": True,
        }
        yield Step("profile", words, "rolesanywhere", "create_profile", parameters)
        return
    changes: dict[str, Any] = {}
    changed: list[str] = []
    if not profile.has(role_arn, wanted.role):
        changes["roleArns"] = [*profile.roles, role_arn or _NEW_ROLE]
        changed.append(f"add the role {wanted.role!r}")
    if wanted.duration and profile.duration != wanted.duration:
        changes["durationSeconds"] = wanted.duration
        changed.append(f"let sessions last at most {wanted.duration} seconds instead of {profile.duration}")
    if changes:
        words = f"change {profile.name!r}: {' and '.join(changed)}"
        yield Step("profile", words, "rolesanywhere", "update_profile", {"profileId": profile.id, **changes})
    if not profile.enabled:
        words = f"enable {profile.name!r}, which is disabled: all its roles can be assumed again"
        yield Step("profile", words, "rolesanywhere", "enable_profile", {"profileId": profile.id})


def _source(cas: Sequence[Certificate]) -> dict[str, Any]:
    return {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": write_bundle(cas)}}
