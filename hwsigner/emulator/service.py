"""Chooses the service that a request is for, and turns refusals into that service's errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from hwsigner.emulator.access_key import AccessKeyService, Signed, describe, is_for_sts
from hwsigner.emulator.control.plane import ControlPlane
from hwsigner.emulator.iam import IamService
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import Family, RefusalError, error_response, family_of
from hwsigner.emulator.sessions import ALGORITHMS, SessionService
from hwsigner.emulator.signature import claimed_service, is_presigned
from hwsigner.emulator.vault import Vault
from hwsigner.emulator.wire import Request, Response
from hwsigner.emulator.world import World

# Responds to a request whose signature is verified, or raises a RefusalError.
Handler = Callable[[Record, Signed], Response]


class Service:
    """CreateSession, GetCallerIdentity and requests to other services, with one world and one clock.

    Attributes:
        vault: the credentials that it accepts.
    """

    def __init__(self, world: World, clock: Callable[[], datetime]) -> None:
        self.vault = Vault()
        self._lock = threading.Lock()
        self._world = world
        self._sessions = SessionService(world, self.vault, clock)
        self._access_keys = AccessKeyService(self.vault, clock)
        # By the service in the credential scope. Requests to other services are described.
        self._handlers: dict[str, Handler] = {
            "rolesanywhere": ControlPlane(world, clock).respond,
            "iam": IamService(world, clock).respond,
        }

    def respond(self, record: Record) -> Response:
        """Respond to a record's request, and add the result to the record."""
        family, handle = self._route(record.request)
        try:
            with self._lock:
                response = handle(record)
            record.accepted = True
            record.answer_type = "Success"
        except RefusalError as refusal:
            record.answer_type, record.message, record.reason = refusal.error_type, refusal.message, refusal.reason
            response = error_response(refusal, family, record.request_id)
        record.status = response.status
        return response

    def _route(self, request: Request) -> tuple[Family, Callable[[Record], Response]]:
        if (request.method, request.path) == ("POST", self._world.session_path):
            return Family.JSON, self._sessions.create_session
        if is_for_sts(request):
            return Family.STS, self._access_keys.get_caller_identity
        # Signed, but not for Roles Anywhere.
        authorizations = request.values("authorization")
        if is_presigned(request) or any(not each.startswith(ALGORITHMS) for each in authorizations):
            return family_of(claimed_service(request)), self._handle_signed
        return Family.JSON, _refuse_unknown

    def _handle_signed(self, record: Record) -> Response:
        signed = self._access_keys.authenticate(record)
        return self._handlers.get(signed.authorization.service, describe)(record, signed)


def _refuse_unknown(record: Record) -> Response:
    message = f"There is no {record.method} {record.request.path} here, and the request is not signed for a service"
    raise RefusalError("UnknownOperationException", 404, message)
