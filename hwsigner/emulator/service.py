"""Which of the emulator's services a request is for, and its answer as each service words it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from hwsigner.emulator.answers import Answer, RefusalError
from hwsigner.emulator.callers import get_caller_identity, is_for_sts
from hwsigner.emulator.record import Record
from hwsigner.emulator.sessions import ALGORITHMS, SessionService
from hwsigner.emulator.signature import claimed_service, is_presigned
from hwsigner.emulator.signed_requests import answer_signed
from hwsigner.emulator.vault import Vault
from hwsigner.emulator.verification import Verifier
from hwsigner.emulator.wire import Request
from hwsigner.emulator.wordings import Family, error_answer, family_of
from hwsigner.emulator.world import World


class Service:
    """CreateSession, GetCallerIdentity and requests signed for other services, over one world and one clock.

    Attributes:
        vault: the credentials that it knows.
    """

    def __init__(self, world: World, clock: Callable[[], datetime]) -> None:
        self.vault = Vault()
        self._world = world
        self._sessions = SessionService(world, self.vault, clock)
        self._verifier = Verifier(self.vault, clock)

    def answer(self, record: Record) -> Answer:
        """Answer a record's request, and write into the record what was found."""
        family, handle = self._route(record.request)
        try:
            answer = handle(record)
            record.accepted = True
            record.answer_type = "Success"
        except RefusalError as refusal:
            record.answer_type, record.message, record.reason = refusal.error_type, refusal.message, refusal.reason
            answer = error_answer(refusal, family, record.request_id)
        record.status = answer.status
        return answer

    def _route(self, request: Request) -> tuple[Family, Callable[[Record], Answer]]:
        if (request.method, request.path) == ("POST", self._world.session_path):
            return Family.JSON, self._sessions.create_session
        if is_for_sts(request):
            return Family.STS, lambda record: get_caller_identity(record, self._verifier)
        if _is_signed(request):
            return family_of(claimed_service(request)), lambda record: answer_signed(record, self._verifier)
        return Family.JSON, _unknown


def _is_signed(request: Request) -> bool:
    """Tell whether a request is signed in some way, but not for Roles Anywhere."""
    authorizations = request.values("authorization")
    return is_presigned(request) or any(not each.startswith(ALGORITHMS) for each in authorizations)


def _unknown(record: Record) -> Answer:
    message = f"There is no {record.method} {record.request.path} here, and the request is not signed for a service"
    raise RefusalError("UnknownOperationException", 404, message)
