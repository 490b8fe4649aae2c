"""Commands to the agent: status, lock, unlock, refresh, put, stop. Each has a thread and a socket that waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from hwsigner._agent import protocol
from hwsigner._agent.memory import LockedMemory
from hwsigner._agent.profile import AgentProfile, ProfileStatus
from hwsigner._agent.protocol import Channel, Verb
from hwsigner._pins import PinRequest
from hwsigner._pins.child import MAX_PIN_BYTES
from hwsigner._version import __version__
from hwsigner.errors import AgentError, printable, printable_lines

# The seconds that a person has to type a PIN.
PERSON_LIMIT = 180.0
# A wrong PIN may be asked again, and a key may need a second PIN for its signature.
_MAX_QUESTIONS = 5
_MAX_PROBLEM = 200

_T = TypeVar("_T")


class _Waiting(Channel):
    """A connection to a client that waits for a profile."""

    def __init__(self, sock: socket.socket, profile: AgentProfile | None) -> None:
        super().__init__(sock)
        self._profile = profile

    def wait(self, future: Future[_T]) -> _T:
        """Return a future's result; meanwhile report that the agent is working, or what a token waits for."""
        noted = None
        while True:
            try:
                return future.result(protocol.WORKING_EVERY)
            except TimeoutError:
                notice = self._profile.notice if self._profile else None
                self.send(protocol.note(notice) if notice and notice != noted else protocol.WORKING)
                noted = notice


def serve_command(sock: socket.socket, verb: Verb, chosen: Sequence[AgentProfile], memory: LockedMemory) -> None:
    """Do what a client requests, answer, and close the connection. If the client is gone or sends nonsense, just close.

    For `stop` there is only an answer.
    """
    channel = _Waiting(sock, chosen[0] if verb in (Verb.REFRESH, Verb.UNLOCK, Verb.PUT) else None)
    with sock, suppress(OSError, AgentError):
        if verb is Verb.STATUS:
            lines = [f"hwsigner {__version__}\tprocess {os.getpid()}", *(_line(profile.status()) for profile in chosen)]
            answer = protocol.ok("\n".join("\t".join(map(printable, line.split("\t"))) for line in lines))
        elif verb is Verb.LOCK:
            for locked in [profile.lock() for profile in chosen]:
                channel.wait(locked)
            names = ", ".join(profile.name for profile in chosen)
            answer = protocol.ok(f"locked: {printable(names) or 'nothing'}")
        elif verb is Verb.REFRESH:
            answer = channel.wait(chosen[0].renew())
        elif verb is Verb.UNLOCK:
            answer = _unlock(channel, chosen[0], memory)
        elif verb is Verb.PUT:
            answer = _take_session(channel, chosen[0])
        else:
            answer = protocol.ok("the agent answers waiting clients, then stops")
        channel.send(answer)


def _line(status: ProfileStatus) -> str:
    """Return name, state, expiration and last problem, separated by tabs."""
    expiration = f"{status.expiration:%Y-%m-%dT%H:%M:%SZ}" if status.expiration else ""
    problem = status.failure.message[:_MAX_PROBLEM] if status.failure else ""
    return "\t".join((status.name, status.state, expiration, problem))


def _unlock(channel: _Waiting, profile: AgentProfile, memory: LockedMemory) -> bytes:
    progress = channel.wait(profile.unlock())
    for _ in range(_MAX_QUESTIONS):
        request = progress.wanted
        if request is None:
            break
        channel.send(protocol.with_body("ask", printable_lines(request[:-1]).encode()))
        progress = channel.wait(profile.unlock_with(request, _receive_pin(channel, request, memory)))
    return progress.answer


def _take_session(channel: _Waiting, profile: AgentProfile) -> bytes:
    """Ask for a session, showing the client which settings of the profile it must be for."""
    channel.send(protocol.with_body("ask", profile.config.digest.encode()))
    head = channel.head(protocol.SILENCE_LIMIT)
    if head.kind != "session":
        raise AgentError("the client sent no session")
    return channel.wait(profile.take(bytes(channel.body(head))))


def _receive_pin(channel: Channel, request: PinRequest, memory: LockedMemory) -> memoryview:
    head = channel.head(PERSON_LIMIT)
    if head.kind != "pin" or head.size > MAX_PIN_BYTES or not (head.size or request.may_be_empty):
        raise AgentError("the client sent no PIN")
    pin = memory.take(head.size) if head.size else memoryview(b"")
    channel.body_into(pin)
    try:
        str(pin, "utf-8")
    except UnicodeDecodeError:
        # Not chained: the exception would carry the PIN.
        raise AgentError("the client sent a PIN that is not text") from None
    return pin
