"""Commands to the agent: status, lock, unlock, refresh, stop. Each has a thread and a socket that waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import astuple
from typing import TypeVar

from hwsigner._version import __version__
from hwsigner.agent import protocol
from hwsigner.agent.memory import LockedMemory
from hwsigner.agent.profile import AgentProfile
from hwsigner.agent.protocol import Channel, Verb
from hwsigner.errors import AgentError, printable
from hwsigner.pins.child import MAX_PIN_BYTES

# The seconds that a person has to type a PIN.
PERSON_LIMIT = 180.0
_MAX_QUESTIONS = 5

_T = TypeVar("_T")


class Control:
    """The conversation about one command for some profiles. It closes the connection at the end."""

    def __init__(
        self, sock: socket.socket, chosen: Sequence[AgentProfile], *, memory: LockedMemory, stop: Callable[[], None]
    ) -> None:
        self._sock, self._channel = sock, Channel(sock)
        self._chosen = chosen
        self._memory = memory
        self._stop = stop

    def serve(self, verb: Verb) -> None:
        """Do what is requested and answer. If the client is gone or sends nonsense, the conversation ends."""
        acts: dict[Verb, Callable[[], bytes]] = {
            Verb.STATUS: self._status,
            Verb.LOCK: self._lock,
            Verb.UNLOCK: self._unlock,
            Verb.REFRESH: lambda: self._wait(self._chosen[0].renew()),
            Verb.STOP: lambda: protocol.ok("the agent answers waiting clients, then stops"),
        }
        with self._sock, suppress(OSError, AgentError):
            self._channel.send(acts[verb]())
        if verb is Verb.STOP:
            self._stop()

    def _status(self) -> bytes:
        lines = [f"hwsigner {__version__}\tprocess {os.getpid()}", *(profile.status() for profile in self._chosen)]
        return protocol.ok("\n".join("\t".join(map(printable, line.split("\t"))) for line in lines))

    def _lock(self) -> bytes:
        for locked in [profile.lock() for profile in self._chosen]:
            self._wait(locked)
        names = ", ".join(profile.name for profile in self._chosen)
        return protocol.ok(f"locked: {printable(names) or 'nothing'}")

    def _unlock(self) -> bytes:
        profile = self._chosen[0]
        progress = self._wait(profile.unlock())
        for _ in range(_MAX_QUESTIONS):
            request = progress.wanted
            if request is None:
                break
            self._channel.send(protocol.with_body("ask", "\n".join(map(printable, astuple(request)[:-1])).encode()))
            progress = self._wait(profile.bring(request, self._receive_pin()))
        return progress.answer

    def _receive_pin(self) -> memoryview:
        head = self._channel.head(PERSON_LIMIT)
        if head.kind != "pin" or head.size > MAX_PIN_BYTES:
            raise AgentError("the client sent no PIN")
        pin = self._memory.take(head.size)
        self._channel.body_into(pin)
        try:
            str(pin, "utf-8")
        except UnicodeDecodeError:
            # Not chained: the exception would carry the PIN.
            raise AgentError("the client sent a PIN that is not text") from None
        return pin

    def _wait(self, future: Future[_T]) -> _T:
        """Return a future's result; meanwhile report that the agent is working."""
        while True:
            try:
                return future.result(protocol.WORKING_EVERY)
            except TimeoutError:
                self._channel.send(protocol.WORKING)
