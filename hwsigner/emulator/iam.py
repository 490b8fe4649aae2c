"""IAM's actions for roles: trust policies, descriptions, durations, tags and attached policies, in a world's roles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote

from hwsigner.emulator.access_key import Signed
from hwsigner.emulator.arns import parse_arn, partition_of
from hwsigner.emulator.canonical import query_pairs
from hwsigner.emulator.iam_parameters import MAX_TAGS, VERSION, Form
from hwsigner.emulator.iam_policies import open_policy, read_policy
from hwsigner.emulator.permissions import not_allowed, require
from hwsigner.emulator.query import query_response
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import IAM_NAMESPACE, RefusalError
from hwsigner.emulator.resources import Role
from hwsigner.emulator.vault import CallerCredentials
from hwsigner.emulator.wire import Request, Response
from hwsigner.emulator.world import World

# IAM is one service per partition, in one of its regions.
REGIONS = ("us-east-1", "cn-north-1", "us-gov-west-1", "eusc-de-east-1")
_MAX_POLICIES = 10
_POLICY_ARN = re.compile(
    r"arn:(aws(?:-[a-z]+)*):iam::(aws|\d{12}):policy/(?:[\x21-\x7e]+/)?([\w+=,.@-]{1,128})", re.ASCII
)


@dataclass(frozen=True)
class _IamCall:
    """An action's caller and parameters."""

    account: str
    partition: str
    form: Form
    now: datetime = field(compare=False)


class IamService:
    """Responds to IAM's query protocol. A caller sees the roles of its own account and partition."""

    def __init__(self, world: World, clock: Callable[[], datetime]) -> None:
        self._world = world
        self._clock = clock

    def action(self, request: Request) -> str:
        """Return the name of a request's action, or an empty string if it is not known here."""
        name = dict(query_pairs(request.body.decode("latin-1"))).get(b"Action", b"").decode("latin-1")
        return f"iam:{name}" if name in _ACTIONS else ""

    def respond(self, record: Record, signed: Signed) -> Response:
        """Do what a verified request asks for, and respond in XML."""
        region = signed.authorization.region
        if region not in REGIONS:
            message = f"Credential should be scoped to a valid region, such as {REGIONS[0]}, and not {region}"
            raise RefusalError("SignatureDoesNotMatch", 403, message)
        form = Form(record.request)
        if form.version != VERSION or form.action not in _ACTIONS:
            message = f"Could not find operation {form.action} for version {form.version}"
            raise RefusalError("InvalidAction", 400, message)
        action = _ACTIONS[form.action]
        form.check(action.required, action.optional)
        call = _IamCall(signed.caller.account, partition_of(region), form, self._clock())
        require(self._world, signed.caller, f"iam:{form.action}", self._resource(call))
        self._check_boundary(call, signed.caller)
        result = action.run(self, call)
        return query_response(form.action, result, record.request_id, IAM_NAMESPACE)

    def create_role(self, call: _IamCall) -> dict[str, Any]:
        """Make a role. Names differ in more than upper and lower case."""
        name, path = call.form.text("RoleName"), call.form.text("Path", "/")
        if any(role.name.lower() == name.lower() for role in self._roles(call)):
            raise RefusalError("EntityAlreadyExists", 409, f"Role with name {name} already exists.")
        role = Role(
            f"arn:{call.partition}:iam::{call.account}:role{path}{name}",
            max_session_duration=call.form.number("MaxSessionDuration", 3600),
            trust_policy=read_policy(call.form.text("AssumeRolePolicyDocument"), self._world.differing),
            description=call.form.text("Description"),
            tags=call.form.tags(),
            created=call.now,
            boundary=self._boundary(call),
            visible_from=call.now + timedelta(seconds=self._world.role_delay),
        )
        self._world.roles[role.arn] = role
        return {"Role": {**_summary(role), **_tags(role)}}

    def get_role(self, call: _IamCall) -> dict[str, Any]:
        """Return all that is known of a role."""
        role = self._role(call)
        boundary = {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": role.boundary}
        limits = {"PermissionsBoundary": boundary} if role.boundary else {}
        return {"Role": {**_listed(role), **_tags(role), **limits, "RoleLastUsed": {}}}

    def list_roles(self, call: _IamCall) -> dict[str, Any]:
        """Return a page of roles, without their tags."""
        prefix = call.form.text("PathPrefix", "/")
        roles = (role for role in self._roles(call) if _path(role).startswith(prefix))
        return call.form.page(((role.name, _listed(role)) for role in roles), "Roles")

    def update_assume_role_policy(self, call: _IamCall) -> None:
        """Replace a role's trust policy, and with it the tags that a world's file may require."""
        role = self._role(call)
        role.trust_policy = read_policy(call.form.text("PolicyDocument"), self._world.differing)
        role.principal_tags = {}

    def put_role_permissions_boundary(self, call: _IamCall) -> None:
        """Set the permissions boundary."""
        self._role(call).boundary = self._boundary(call)

    def delete_role_permissions_boundary(self, call: _IamCall) -> None:
        """Remove the permissions boundary."""
        role = self._role(call)
        if not role.boundary:
            raise _missing(f"The role {role.name} has no permissions boundary.")
        role.boundary = ""

    def update_role(self, call: _IamCall) -> dict[str, Any]:
        """Change the description and the maximum session duration, if they are given."""
        role = self._role(call)
        role.description = call.form.text("Description", role.description)
        role.max_session_duration = call.form.number("MaxSessionDuration", role.max_session_duration)
        return {}

    def delete_role(self, call: _IamCall) -> None:
        """Delete a role without attached policies."""
        role = self._role(call)
        if role.policies:
            raise RefusalError("DeleteConflict", 409, "Cannot delete entity, must detach all policies first.")
        del self._world.roles[role.arn]

    def tag_role(self, call: _IamCall) -> None:
        """Add tags. They replace those with the same key in upper or lower case."""
        role, added = self._role(call), call.form.tags()
        replaced = {key.lower() for key in added}
        tags = {key: value for key, value in role.tags.items() if key.lower() not in replaced} | added
        if len(tags) > MAX_TAGS:
            raise RefusalError("LimitExceeded", 409, f"Cannot exceed quota for TagsPerRole: {MAX_TAGS}")
        role.tags = tags

    def untag_role(self, call: _IamCall) -> None:
        """Remove tags, if they are there."""
        role, removed = self._role(call), {key.lower() for key in call.form.tag_keys()}
        role.tags = {key: value for key, value in role.tags.items() if key.lower() not in removed}

    def list_role_tags(self, call: _IamCall) -> dict[str, Any]:
        """Return a page of tags."""
        tags = self._role(call).tags
        return call.form.page(((key, {"Key": key, "Value": value}) for key, value in tags.items()), "Tags")

    def attach_role_policy(self, call: _IamCall) -> None:
        """Attach a policy of AWS or of the caller's account."""
        role, arn = self._role(call), call.form.text("PolicyArn")
        self._check_policy(call, arn)
        if arn not in role.policies and len(role.policies) == _MAX_POLICIES:
            raise RefusalError("LimitExceeded", 409, f"Cannot exceed quota for PoliciesPerRole: {_MAX_POLICIES}")
        role.policies = list(dict.fromkeys((*role.policies, arn)))

    def detach_role_policy(self, call: _IamCall) -> None:
        """Detach a policy."""
        role, arn = self._role(call), call.form.text("PolicyArn")
        if arn not in role.policies:
            raise _missing(f"Policy {arn} was not found.")
        role.policies.remove(arn)

    def list_attached_role_policies(self, call: _IamCall) -> dict[str, Any]:
        """Return a page of attached policies."""
        found = ({"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn} for arn in self._role(call).policies)
        return call.form.page(((each["PolicyArn"], each) for each in found), "AttachedPolicies")

    def list_role_policies(self, call: _IamCall) -> dict[str, Any]:
        """Return no inline policies: there are none here."""
        self._role(call)
        return call.form.page((), "PolicyNames")

    def _boundary(self, call: _IamCall) -> str:
        arn = call.form.text("PermissionsBoundary")
        if arn:
            self._check_policy(call, arn)
        return arn

    def _check_policy(self, call: _IamCall, arn: str) -> None:
        match, known = _POLICY_ARN.fullmatch(arn), self._world.policies
        is_there = known is None or arn in known
        if not match or match[1] != call.partition or match[2] not in ("aws", call.account) or not is_there:
            raise _missing(f"Policy {arn} does not exist or is not attachable.")

    def _check_boundary(self, call: _IamCall, caller: CallerCredentials) -> None:
        """Refuse calls after which a role would not have the boundary that is required."""
        wanted, action = self._world.required_boundary, call.form.action
        if wanted and action in _OF_BOUNDARIES and call.form.text("PermissionsBoundary") != wanted:
            raise not_allowed(caller, f"iam:{action}", self._resource(call), "identity-based policy")

    def _roles(self, call: _IamCall) -> Iterator[Role]:
        for role in list(self._world.roles.values()):
            arn = parse_arn(role.arn, "role")
            if arn and (arn.partition, arn.account) == (call.partition, call.account):
                yield role

    def _resource(self, call: _IamCall) -> str:
        """Return the ARN of the role that a call is about, even if there is no such role."""
        name = call.form.text("RoleName")
        found = next((role.arn for role in self._roles(call) if name and role.name == name), "")
        return found or f"arn:{call.partition}:iam::{call.account}:role{call.form.text('Path', '/')}{name}"

    def _role(self, call: _IamCall) -> Role:
        name = call.form.text("RoleName")
        for role in self._roles(call):
            if role.name == name:
                return role
        raise _missing(f"The role with name {name} cannot be found.")


class _Action(NamedTuple):
    """An action. Its result is None if the response has no result element."""

    run: Callable[[IamService, _IamCall], dict[str, Any] | None]
    required: tuple[str, ...] = ("RoleName",)
    optional: tuple[str, ...] = ()


_PAGES = ("Marker", "MaxItems")
_OF_BOUNDARIES = ("CreateRole", "PutRolePermissionsBoundary", "DeleteRolePermissionsBoundary")
_ACTIONS = {
    "CreateRole": _Action(
        IamService.create_role,
        ("RoleName", "AssumeRolePolicyDocument"),
        ("Path", "Description", "MaxSessionDuration", "Tags", "PermissionsBoundary"),
    ),
    "PutRolePermissionsBoundary": _Action(
        IamService.put_role_permissions_boundary, ("RoleName", "PermissionsBoundary")
    ),
    "DeleteRolePermissionsBoundary": _Action(IamService.delete_role_permissions_boundary),
    "GetRole": _Action(IamService.get_role),
    "ListRoles": _Action(IamService.list_roles, (), ("PathPrefix", *_PAGES)),
    "UpdateAssumeRolePolicy": _Action(IamService.update_assume_role_policy, ("RoleName", "PolicyDocument")),
    "UpdateRole": _Action(IamService.update_role, optional=("Description", "MaxSessionDuration")),
    "DeleteRole": _Action(IamService.delete_role),
    "TagRole": _Action(IamService.tag_role, ("RoleName", "Tags")),
    "UntagRole": _Action(IamService.untag_role, ("RoleName", "TagKeys")),
    "ListRoleTags": _Action(IamService.list_role_tags, optional=_PAGES),
    "AttachRolePolicy": _Action(IamService.attach_role_policy, ("RoleName", "PolicyArn")),
    "DetachRolePolicy": _Action(IamService.detach_role_policy, ("RoleName", "PolicyArn")),
    "ListAttachedRolePolicies": _Action(IamService.list_attached_role_policies, optional=_PAGES),
    "ListRolePolicies": _Action(IamService.list_role_policies, optional=_PAGES),
}


def _path(role: Role) -> str:
    return role.arn.partition(":role")[2].removesuffix(role.name)


def _summary(role: Role) -> dict[str, Any]:
    policy = role.trust_policy.document if role.trust_policy else open_policy(role.principal_tags)
    return {
        "Path": _path(role),
        "RoleName": role.name,
        "RoleId": role.id,
        "Arn": role.arn,
        "CreateDate": role.created,
        "AssumeRolePolicyDocument": quote(policy, safe=""),
    }


def _listed(role: Role) -> dict[str, Any]:
    description = {"Description": role.description} if role.description else {}
    return {**_summary(role), **description, "MaxSessionDuration": role.max_session_duration}


def _tags(role: Role) -> dict[str, Any]:
    tags = [{"Key": key, "Value": value} for key, value in sorted(role.tags.items())]
    return {"Tags": tags} if tags else {}


def _missing(message: str) -> RefusalError:
    return RefusalError("NoSuchEntity", 404, message)
