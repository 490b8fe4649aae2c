"""The plan for a set-up: the calls of AWS's APIs that it needs, in words, and carrying them out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import sleep
from typing import Any, Literal

from hwsigner._aws.apis import ServiceClient, ServiceClients
from hwsigner._aws.failures import NOT_FOUND
from hwsigner._control_plane.policies import difference, lets_in_otherwise, refusal, what_it_lets_in, with_statement
from hwsigner._control_plane.resources import (
    DEFAULT_DURATION,
    Existing,
    Role,
    RolesAnywhereProfile,
    Setup,
    TrustAnchor,
    is_mapped,
    read,
    without,
)
from hwsigner._identity.bundle import subjects, write_bundle
from hwsigner._identity.certificate import Certificate
from hwsigner.errors import HwsignerError, ServiceError, ServiceUnreachableError
from hwsigner.trust_policy.writing import in_words

_AGAIN = "Run the same command again: it shows what is left and completes it"
_CREATE_ROLE = "iam:CreateRole"
_BOUNDARY = "If it allows only roles with a permissions boundary, give that with --permissions-boundary"
# Calls that may be refused for a minute after CreateRole, and the pauses before each further attempt: two minutes.
_WITH_ROLE = frozenset({"attach_role_policy", "create_profile", "update_profile"})
_ROLE_PAUSES = (1, 2, 3, 5, 8, *(10,) * 10)
_EXISTS = frozenset({"EntityAlreadyExists", "EntityAlreadyExistsException"})
# Calls that make something, and the pauses before a list is read again in which it is not there yet.
_MAKING = frozenset({"create_trust_anchor", "create_role", "create_profile"})
_LIST_PAUSES = (1, 2)
# Of the calls that make another one each time: the attribute of `Existing`, its class, and the API's names for it.
_TWINS: Mapping[str, tuple[str, Any, str, str]] = {
    "create_trust_anchor": ("anchor", TrustAnchor, "trust_anchor", "trustAnchor"),
    "create_profile": ("profile", RolesAnywhereProfile, "profile", "profile"),
}
# The ARNs of what is not made yet, in a plan that is shown.
NEW_ANCHOR = "arn:aws:rolesanywhere:REGION:ACCOUNT:trust-anchor/NEW"
_NEW_ROLE = "arn:aws:iam::ACCOUNT:role/NEW"


@dataclass(frozen=True)
class Step:
    """A call of an API."""

    resource: Literal["trust anchor", "role", "profile"]
    words: str
    service: str  # The name of the client in `ServiceClients`.
    operation: str
    parameters: dict[str, Any] = field(repr=False)
    lines: tuple[str, ...] = ()  # The difference in the trust policy, if there is one.

    @property
    def title(self) -> str:
        """What it makes or changes, for the user."""
        return "Roles Anywhere profile" if self.resource == "profile" else self.resource

    @property
    def short(self) -> str:
        """The first of the words, such as "create 'web'"."""
        return self.words.partition(":")[0].partition(",")[0]

    @property
    def data(self) -> dict[str, Any]:
        """The step for programs, as JSON has it."""
        return {"resource": self.resource, "words": self.words, "call": self.operation, "difference": list(self.lines)}


def plan(existing: Existing, setup: Setup) -> list[Step]:
    """Return the calls that are to be made, in order. The ARNs of new resources are made up."""
    anchor_arn = existing.anchor.arn if existing.anchor else NEW_ANCHOR
    role_arn = existing.role.arn if existing.role else ""
    duration = setup.duration or (existing.profile.duration if existing.profile else DEFAULT_DURATION)
    return [
        *_of_anchor(existing.anchor, setup),
        *_of_role(existing.role, setup, anchor_arn, duration),
        *_of_profile(existing.profile, setup, role_arn),
    ]


def notes(existing: Existing, setup: Setup) -> list[str]:
    """Return what the user should know besides the steps."""
    found = []
    anchor_arn = existing.anchor.arn if existing.anchor else NEW_ANCHOR
    if existing.role is None and not setup.policies:
        found.append("the new role has no permissions: give some with --policy, or with aws iam attach-role-policy")
    before = existing.role.trust_policy if existing.role else None
    if before is not None and lets_in_otherwise(before, setup.tags, anchor_arn):
        found.append("the role's trust policy lets these certificates in already, and maybe others: it stays as it is")
    found += obstacles(existing, setup)
    anchor = existing.anchor
    if anchor and not anchor.missing(setup.cas) and (others := without(anchor.bundle or (), setup.cas)):
        found.append(f"the trust anchor also trusts {subjects(others)}")
    if existing.profile and (rest := len({*existing.profile.roles} - {existing.role.arn if existing.role else ""})):
        found.append(f"the Roles Anywhere profile also has {rest} other role{'s' if rest > 1 else ''}")
    return found


def obstacles(existing: Existing, setup: Setup) -> list[str]:
    """Return what keeps these certificates out, and a set-up does not change."""
    anchor_arn = existing.anchor.arn if existing.anchor else NEW_ANCHOR
    before = existing.role.trust_policy if existing.role else None
    found = []
    if before and (reason := refusal(with_statement(before, setup.tags, anchor_arn), setup.tags, anchor_arn)):
        found.append(f"the role will still refuse these certificates: {reason}")
    unmapped = [tag for tag in setup.tags if existing.profile and not is_mapped(tag, existing.profile.mappings)]
    if unmapped and not (before and lets_in_otherwise(before, setup.tags, anchor_arn)):
        found.append(
            f"the Roles Anywhere profile does not map {' and '.join(unmapped)}, so the role will refuse every "
            "certificate: map it with aws rolesanywhere put-attribute-mapping"
        )
    return found


def described(existing: Existing, setup: Setup, steps: Sequence[Step]) -> list[str]:
    """Return a plan in lines for people: what there is, the steps, whom they let in, and notes."""
    titles = ("trust anchor", "role", "Roles Anywhere profile")
    lines = [f"{title}: {arn} exists" for title, arn in zip(titles, existing.arns.values(), strict=True) if arn]
    for step in steps:
        lines += [f"{step.title}: {step.words}", *(f"    {line}" for line in step.lines)]
    if any(step.lines for step in steps):
        lines += [f"This {each}" for each in what_it_lets_in(setup.tags, "the trust anchor")]
    return [*lines, *(f"Note: {each}" for each in notes(existing, setup))]


def _of_anchor(anchor: TrustAnchor | None, setup: Setup) -> Iterator[Step]:
    if anchor is None:
        words = f"create {setup.name!r}, which trusts {subjects(setup.cas)}"
        parameters = {"name": setup.name, "source": _source(setup.cas), "enabled": True}
        yield Step("trust anchor", words, "rolesanywhere", "create_trust_anchor", parameters)
        return
    if new := anchor.missing(setup.cas):
        words = (
            f"add {subjects(new)} to {anchor.name!r}, beside {subjects(anchor.bundle or ())}:"
            " every role that trusts this trust anchor trusts certificates of both"
        )
        parameters = {"trustAnchorId": anchor.id, "source": _source([*(anchor.bundle or ()), *new])}
        yield Step("trust anchor", words, "rolesanywhere", "update_trust_anchor", parameters)
    if not anchor.enabled:
        words = f"enable {anchor.name!r}, which is disabled: every role that trusts it can be assumed again"
        yield Step("trust anchor", words, "rolesanywhere", "enable_trust_anchor", {"trustAnchorId": anchor.id})


def _of_role(role: Role | None, setup: Setup, anchor_arn: str, duration: int) -> Iterator[Step]:
    before = role.trust_policy if role else None
    after = with_statement(before, setup.tags, anchor_arn)
    who = f"certificates of the trust anchor with {in_words(setup.tags)}"
    lines = tuple(difference(before, after))
    named: dict[str, Any] = {"RoleName": setup.role}
    boundary = {"PermissionsBoundary": setup.boundary} if setup.boundary else {}
    if role and boundary and role.boundary != setup.boundary:
        instead = f", not {role.boundary}" if role.boundary else ""
        words = f"limit what {setup.role!r} may do: its permissions boundary becomes {setup.boundary}{instead}"
        yield Step("role", words, "iam", "put_role_permissions_boundary", {**named, **boundary})
    if role is None:
        longest = {"MaxSessionDuration": max(duration, DEFAULT_DURATION)}
        parameters = {**named, "AssumeRolePolicyDocument": json.dumps(after), **longest, **boundary}
        who += f", with the permissions boundary {setup.boundary}" if boundary else ""
        yield Step("role", f"create {setup.role!r}, which {who} may assume", "iam", "create_role", parameters, lines)
    elif after != before:
        words = f"widen the trust policy of {setup.role!r}: {who} may assume it, too"
        parameters = {**named, "PolicyDocument": json.dumps(after)}
        yield Step("role", words, "iam", "update_assume_role_policy", parameters, lines)
    if role and role.max_session_duration < duration:
        words = f"raise MaxSessionDuration of {setup.role!r} from {role.max_session_duration} to {duration} seconds"
        yield Step("role", words, "iam", "update_role", {**named, "MaxSessionDuration": duration})
    for arn in dict.fromkeys(setup.policies):
        if role is None or arn not in role.policies:
            words = f"attach {arn} to {setup.role!r}"
            yield Step("role", words, "iam", "attach_role_policy", {**named, "PolicyArn": arn})


def _of_profile(profile: RolesAnywhereProfile | None, setup: Setup, role_arn: str) -> Iterator[Step]:
    if profile is None:
        duration = setup.duration or DEFAULT_DURATION
        words = f"create {setup.name!r} with the role {setup.role!r}, and sessions of at most {duration} seconds"
        parameters = {
            "name": setup.name,
            "roleArns": [role_arn or _NEW_ROLE],
            "durationSeconds": duration,
            "enabled": True,
        }
        if setup.accepts_names:
            words = f"{words}, which callers may name"
            parameters["acceptRoleSessionName"] = True
        yield Step("profile", words, "rolesanywhere", "create_profile", parameters)
        return
    changes: dict[str, Any] = {}
    changed: list[str] = []
    if not profile.has(role_arn, setup.role):
        changes["roleArns"] = [*profile.roles, role_arn or _NEW_ROLE]
        changed.append(f"add the role {setup.role!r}")
    if setup.duration and profile.duration != setup.duration:
        changes["durationSeconds"] = setup.duration
        changed.append(f"let sessions last at most {setup.duration} seconds instead of {profile.duration}")
    if setup.accepts_names and not profile.accepts_names:
        changes["acceptRoleSessionName"] = True
        changed.append("let callers name their sessions")
    if changes:
        words = f"change {profile.name!r}: {' and '.join(changed)}"
        yield Step("profile", words, "rolesanywhere", "update_profile", {"profileId": profile.id, **changes})
    if not profile.enabled:
        words = f"enable {profile.name!r}, which is disabled: all its roles can be assumed again"
        yield Step("profile", words, "rolesanywhere", "enable_profile", {"profileId": profile.id})


def _source(cas: Sequence[Certificate]) -> dict[str, Any]:
    return {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": write_bundle(cas)}}


def apply(clients: ServiceClients, existing: Existing, setup: Setup, done: Callable[[Step], None]) -> Existing:
    """Carry out the plan for a set-up, and return what there is then.

    After each call, what is left is planned again with the ARNs that the call returned. So a set-up that was cut off
    anywhere is completed by the next one.
    """
    made: list[str] = []
    left = plan(existing, setup)
    operations = [step.operation for step in left]
    for operation in operations:
        step = next((each for each in left if each.operation == operation), None)
        if step is None:  # With the ARNs that are known now, it is not needed.
            continue
        try:
            _check_replaced(clients, existing, step)
            existing = _carry_out(clients, existing, setup, step)
        except HwsignerError as error:
            if step.operation == "create_role" and not setup.boundary and _CREATE_ROLE in error.hint:
                error.hint = f"{error.hint}. {_BOUNDARY}"
            raise _with_what_was_made(error, made) from error
        left = plan(existing, setup)
        made.append(f"{step.title}: {step.short}")
        done(step)
    if left:
        raise HwsignerError("more is to be done than the plan said", _AGAIN)
    return existing


def _check_replaced(clients: ServiceClients, existing: Existing, step: Step) -> None:
    """Check that what a step replaces as a whole is as it was read, maybe a minute ago. Others may have added to it."""
    anchor, role, profile = existing.anchor, existing.role, existing.profile
    if anchor and step.operation == "update_trust_anchor":
        listed = clients.rolesanywhere.items("list_trust_anchors", "trustAnchors")
        is_same = anchor.content in [each.content for each in map(TrustAnchor.of, listed) if each.arn == anchor.arn]
    elif role and step.operation == "update_assume_role_policy":
        found = clients.iam.call("get_role", RoleName=role.name)["Role"]
        is_same = Role.of(found).trust_policy == role.trust_policy
    elif profile and step.operation == "update_profile":
        listed = clients.rolesanywhere.items("list_profiles", "profiles")
        is_same = profile in [RolesAnywhereProfile.of(each) for each in listed]
    else:
        return
    if not is_same:
        raise HwsignerError(f"the {step.title} changed since it was read, so it was left alone", _AGAIN)


def _carry_out(clients: ServiceClients, existing: Existing, setup: Setup, step: Step) -> Existing:
    """Make a step's call and return what there is then, also if only the answer was lost or another run was faster."""
    try:
        response = _call(clients, step)
    except (ServiceError, ServiceUnreachableError) as error:
        may_be_done = error.retryable and step.operation in _MAKING
        found = _looked_up(clients, setup, step, _LIST_PAUSES) if may_be_done else None
        if found is None:
            raise
        return found
    if response is not None:
        return _without_twin(clients, _after(existing, step, response), step, response)
    found = _looked_up(clients, setup, step, _ROLE_PAUSES)
    if found is None:
        raise ServiceError(f"role {setup.role!r} exists, but AWS does not show it", "Retry later", retryable=True)
    return found


def _call(clients: ServiceClients, step: Step) -> Mapping[str, Any] | None:
    """Make a step's call. If it names a role, wait until that is visible everywhere in AWS.

    Returns None if the role to be made exists.
    """
    service: ServiceClient = getattr(clients, step.service)
    for pause in _ROLE_PAUSES if step.operation in _WITH_ROLE else ():
        policy = step.parameters.get("PolicyArn")  # If the message names it, there is no such policy.
        found = service.call_unless(NOT_FOUND, step.operation, naming=policy, **step.parameters)
        if found is not None:
            return found
        clients.say(f"AWS may not see the role everywhere yet: waiting {pause} s")
        sleep(pause)
    if step.operation == "create_role":
        return service.call_unless(_EXISTS, step.operation, **step.parameters)
    return service.call(step.operation, **step.parameters)


def _looked_up(clients: ServiceClients, setup: Setup, step: Step, pauses: Sequence[int]) -> Existing | None:
    """Return what there is once a step that makes something turns out to be done; None if it does not."""
    for pause in (0, *pauses):
        if pause:
            clients.say(f"AWS does not show the {step.title} yet: waiting {pause} s")
            sleep(pause)
        try:
            found = read(clients, setup)
        except (ServiceError, ServiceUnreachableError):
            return None
        if step.operation not in [each.operation for each in plan(found, setup)]:
            return found
    return None


def _without_twin(clients: ServiceClients, existing: Existing, step: Step, response: Mapping[str, Any]) -> Existing:
    """Delete what a step has just made, which nothing uses yet, if another run made its equal before.

    The one with the earlier time stays, then the one with the earlier ARN, so that two runs agree. Returns what there
    is then.
    """
    if step.operation not in _TWINS:
        return existing
    attribute, kind, operation, member = _TWINS[step.operation]
    made = getattr(existing, attribute)
    listed = clients.rolesanywhere.items(f"list_{operation}s", f"{member}s")
    equal = [each for each in listed if kind.of(each).content == made.content]
    first = kind.of(min([*equal, response[member]], key=lambda each: (str(each["createdAt"]), each[f"{member}Arn"])))
    if first.arn == made.arn:
        return existing
    clients.say(f"another run made the {step.title} just before: deleting this run's")
    clients.rolesanywhere.call(f"delete_{operation}", **{f"{member}Id": made.id})
    return replace(existing, **{attribute: first})


def check_unchanged(clients: ServiceClients, existing: Existing, setup: Setup) -> None:
    """Check that everything is as it was when the plan was shown."""
    if read(clients, setup) != existing:
        raise HwsignerError(
            "the trust anchor, role or Roles Anywhere profile changed meanwhile, so nothing was done", _AGAIN
        )


def _after(existing: Existing, step: Step, response: Mapping[str, Any]) -> Existing:
    """Return what there is after a step, from its response, or from its parameters if that says nothing."""
    if step.resource == "trust anchor":
        return replace(existing, anchor=TrustAnchor.of(response["trustAnchor"]))
    if step.resource == "profile":
        return replace(existing, profile=RolesAnywhereProfile.of(response["profile"]))
    parameters, role = step.parameters, existing.role
    if step.operation == "create_role" or role is None:
        document = json.loads(parameters["AssumeRolePolicyDocument"])
        made = Role.of({**response["Role"], "AssumeRolePolicyDocument": document})
        return replace(existing, role=replace(made, boundary=parameters.get("PermissionsBoundary", "")))
    if step.operation == "update_assume_role_policy":
        role = replace(role, trust_policy=json.loads(parameters["PolicyDocument"]))
    elif step.operation == "update_role":
        role = replace(role, max_session_duration=parameters["MaxSessionDuration"])
    elif step.operation == "put_role_permissions_boundary":
        role = replace(role, boundary=parameters["PermissionsBoundary"])
    else:
        role = replace(role, policies=(*role.policies, parameters["PolicyArn"]))
    return replace(existing, role=role)


def _with_what_was_made(error: HwsignerError, made: Sequence[str]) -> HwsignerError:
    if made:
        again = "" if _AGAIN in error.hint else f". {_AGAIN}"
        error.hint = f"{error.hint}. Already done: {'; '.join(made)}{again}"
    return error
