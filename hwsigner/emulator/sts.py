"""STS's actions for callers with an access key: GetCallerIdentity and AssumeRole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from hwsigner.emulator.access_key import AccessKeyService
from hwsigner.emulator.arns import parse_arn
from hwsigner.emulator.assuming import Assumption
from hwsigner.emulator.canonical import query_pairs
from hwsigner.emulator.iam_parameters import Form
from hwsigner.emulator.permissions import require, role_of
from hwsigner.emulator.query import query_response
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import STS_NAMESPACE, RefusalError, denied
from hwsigner.emulator.resources import Role
from hwsigner.emulator.signature import claimed_service
from hwsigner.emulator.vault import CallerCredentials, CredentialVault
from hwsigner.emulator.wire import Request, Response
from hwsigner.emulator.world import World

VERSION = "2011-06-15"
_IDENTITY = "GetCallerIdentity"
_ASSUME = "AssumeRole"
_LONGEST_CHAINED = 3600
_DEFAULT_SECONDS = 3600


def is_for_sts(request: Request) -> bool:
    """Return whether a request is for STS: POST /, and either signed for STS or asking for GetCallerIdentity."""
    if (request.method, request.target) != ("POST", "/"):
        return False
    return claimed_service(request) == "sts" or _asked(request) == (_IDENTITY, VERSION)


def action_of(request: Request) -> str:
    """Return the action of a request for STS, such as "sts:AssumeRole"."""
    return "sts:AssumeRole" if _asked(request)[0] == _ASSUME else "sts:GetCallerIdentity"


def _asked(request: Request) -> tuple[str, str]:
    form = dict(query_pairs(request.body.decode("latin-1")))
    action, version = (form.get(name, b"").decode("utf-8", "replace") for name in (b"Action", b"Version"))
    return action, version


class StsService:
    """STS for the roles of a world. The credentials go into a vault."""

    def __init__(
        self, world: World, vault: CredentialVault, access_keys: AccessKeyService, clock: Callable[[], datetime]
    ) -> None:
        self._world = world
        self._vault = vault
        self._access_keys = access_keys
        self._clock = clock

    def respond(self, record: Record) -> Response:
        """Verify a request and do what it asks for, in XML."""
        form = Form(record.request)
        if form.version != VERSION or form.action not in (_IDENTITY, _ASSUME):
            message = f"Could not find operation {form.action} for version {form.version}"
            raise RefusalError("InvalidAction", 400, message)
        caller = self._access_keys.authenticate_for_sts(record)
        if form.action == _IDENTITY:
            result: dict[str, Any] = {"Arn": caller.arn, "UserId": caller.user_id, "Account": caller.account}
        else:
            form.check(("RoleArn", "RoleSessionName"), ("DurationSeconds", "ExternalId"))
            result = self._assume_role(caller, form)
        return query_response(form.action, result, record.request_id, STS_NAMESPACE)

    def _assume_role(self, caller: CallerCredentials, form: Form) -> dict[str, Any]:
        """Check that the caller may assume the role, and issue credentials."""
        arn, session_name = form.text("RoleArn"), form.text("RoleSessionName")
        parts = parse_arn(arn, "role")
        if parts is None:
            raise RefusalError("ValidationError", 400, f"{arn} is invalid")
        role = self._permitted(caller, form)
        seconds = form.number("DurationSeconds", _DEFAULT_SECONDS)
        if caller.is_of_role and seconds > _LONGEST_CHAINED:
            problem = "exceeds the 1 hour session limit for roles assumed by role chaining"
            raise RefusalError("ValidationError", 400, f"The requested DurationSeconds {problem}")
        if seconds > role.max_session_duration:
            problem = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
            raise RefusalError("ValidationError", 400, problem)
        issued = self._vault.issue(
            expiration=self._clock().replace(microsecond=0) + timedelta(seconds=seconds),
            arn=f"arn:{parts.partition}:sts::{parts.account}:assumed-role/{role.name}/{session_name}",
            user_id=f"{role.id}:{session_name}",
            source_identity=caller.source_identity,
            tags={},  # None is transitive.
        )
        given = {"SourceIdentity": issued.source_identity} if issued.source_identity else {}
        return {
            "AssumedRoleUser": {"AssumedRoleId": issued.user_id, "Arn": issued.arn},
            "Credentials": {
                "AccessKeyId": issued.access_key_id,
                "SecretAccessKey": issued.secret_access_key,
                "SessionToken": issued.session_token,
                "Expiration": issued.expiration,
            },
            **given,
        }

    def _permitted(self, caller: CallerCredentials, form: Form) -> Role:
        """Return the role, if its trust policy lets the caller in and no test denies it. Source identities persist."""
        role = self._world.roles.get(form.text("RoleArn"))
        assumption = Assumption(
            caller, role_of(self._world, caller), form.text("RoleSessionName"), form.text("ExternalId")
        )
        if role is None:
            raise _refusal(caller, "sts:AssumeRole", form, "the role does not exist")
        for action in ("sts:AssumeRole", *(["sts:SetSourceIdentity"] if caller.source_identity else [])):
            require(self._world, caller, action, role.arn)
            if reason := assumption.refusal(role, action):
                raise _refusal(caller, action, form, reason)
        return role


def _refusal(caller: CallerCredentials, action: str, form: Form, reason: str) -> RefusalError:
    what = f"perform: {action} on resource: {form.text('RoleArn')}"
    return denied(f"User: {caller.arn} is not authorized to {what}", reason)
