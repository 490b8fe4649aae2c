"""Which of the emulator's services a request is for, and its answer as each service words it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from hwsigner.emulator.answers import Answer, RefusalError, json_error, xml_error
from hwsigner.emulator.callers import CallerService
from hwsigner.emulator.record import Record
from hwsigner.emulator.sessions import SessionService
from hwsigner.emulator.vault import Vault
from hwsigner.emulator.world import World


class Service:
    """CreateSession and GetCallerIdentity over one world and one clock."""

    def __init__(self, world: World, clock: Callable[[], datetime]) -> None:
        vault = Vault()
        self._world = world
        self._sessions = SessionService(world, vault, clock)
        self._callers = CallerService(vault, clock)

    def answer(self, record: Record) -> Answer:
        """Answer a record's request, and write into the record what was found."""
        try:
            answer = self._dispatch(record)
            record.accepted = True
            record.answer_type = "Success"
        except RefusalError as refusal:
            answer = self._refuse(record, refusal)
        record.status = answer.status
        return answer

    def _dispatch(self, record: Record) -> Answer:
        request = record.request
        if (request.method, request.path) == ("POST", self._world.session_path):
            return self._sessions.create_session(request, record)
        if (request.method, request.target) == ("POST", "/"):
            return self._callers.get_caller_identity(request, record.request_id)
        raise RefusalError("UnknownOperationException", 404, f"There is no {request.method} {request.path} here")

    def _refuse(self, record: Record, refusal: RefusalError) -> Answer:
        record.answer_type, record.message, record.reason = refusal.error_type, refusal.message, refusal.reason
        if record.request.path == "/" and refusal.status != 404:
            return xml_error(refusal, record.request_id)
        return json_error(refusal.error_type, refusal.status, refusal.message)
