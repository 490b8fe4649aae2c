"""Chooses the service that a request is for, and turns refusals into that service's errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from hwsigner.emulator.access_key import AccessKeyService, describe
from hwsigner.emulator.control.plane import ControlPlane
from hwsigner.emulator.iam import IamService
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import Family, RefusalError, error_response, family_of, json_response
from hwsigner.emulator.sessions import ALGORITHMS, SessionService
from hwsigner.emulator.signature import claimed_service, is_presigned
from hwsigner.emulator.sts import StsService, action_of, is_for_sts
from hwsigner.emulator.vault import CredentialVault
from hwsigner.emulator.wire import Request, Response
from hwsigner.emulator.world import World

CREATE_SESSION = "rolesanywhere:CreateSession"


class EmulatedService:
    """CreateSession, STS, IAM and requests to other services, with one world, one clock and one vault."""

    def __init__(self, world: World, clock: Callable[[], datetime]) -> None:
        self.vault = CredentialVault()
        self._lock = threading.Lock()
        self._world = world
        self._sessions = SessionService(world, self.vault, clock)
        self._access_keys = AccessKeyService(self.vault, clock)
        self._sts = StsService(world, self.vault, self._access_keys, clock)
        # By the service in the credential scope. Requests to other services are described.
        self._handlers: dict[str, ControlPlane | IamService] = {
            "rolesanywhere": ControlPlane(world, clock),
            "iam": IamService(world, clock),
        }

    def action(self, request: Request) -> str:
        """Return what a request asks for, such as "iam:GetRole", or an empty string if that is not known here."""
        if self._is_for_session(request):
            return CREATE_SESSION
        if is_for_sts(request):
            return action_of(request)
        handler = self._handlers.get(claimed_service(request))
        return handler.action(request) if handler else ""

    def respond(self, record: Record, *, act: bool = True) -> Response:
        """Respond to a request, and complete its record. Without `act`, IAM and the control plane only verify."""
        family, handle = self._route(record.request)
        try:
            with self._lock:
                response = handle(record) if handle else self._handle_signed(record, act=act)
            record.accepted = True
            record.answer_type = "Success"
        except RefusalError as refusal:
            response = error_response(refusal, family, record.request_id)
            record.answer_type, record.message, record.reason = response.error_type, refusal.message, refusal.reason
        record.status = response.status
        return response

    def refuse(self, record: Record, refusal: RefusalError) -> Response:
        """Return the response to a refused request, in the form of the service that it is for."""
        return error_response(refusal, self._route(record.request)[0], record.request_id)

    def _is_for_session(self, request: Request) -> bool:
        return (request.method, request.path) == ("POST", self._world.session_path)

    def _route(self, request: Request) -> tuple[Family, Callable[[Record], Response] | None]:
        """Return the family of errors, and what handles the request: None for the table of handlers."""
        if self._is_for_session(request):
            return Family.JSON, self._sessions.create_session
        if is_for_sts(request):
            return Family.STS, self._sts.respond
        # Signed, but not for Roles Anywhere.
        authorizations = request.values("authorization")
        if is_presigned(request) or any(not each.startswith(ALGORITHMS) for each in authorizations):
            return family_of(claimed_service(request)), None
        return Family.JSON, _refuse_unknown

    def _handle_signed(self, record: Record, *, act: bool) -> Response:
        signed = self._access_keys.authenticate(record)
        handler = self._handlers.get(signed.authorization.service)
        if handler is None:
            return describe(record, signed)
        return handler.respond(record, signed) if act else json_response(200, {})


def _refuse_unknown(record: Record) -> Response:
    message = f"There is no {record.method} {record.request.path} here, and the request is not signed for a service"
    raise RefusalError("UnknownOperationException", 404, message)
