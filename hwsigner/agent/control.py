"""What a person asks of an agent: how it is, to lock, unlock and refresh profiles, to stop. Each in a thread, on a
socket that may block: it is not the way that credentials go.
"""

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
from hwsigner.agent.profile import HeldProfile
from hwsigner.agent.protocol import Verb, Wire
from hwsigner.errors import AgentError, printable
from hwsigner.pins.child import MAX_PIN_BYTES

# What a person has to type a PIN, in seconds.
PERSON_LIMIT = 180.0
_MAX_QUESTIONS = 5

_T = TypeVar("_T")


class Control:
    """One conversation.

    Args:
        sock: the connection; it is closed at the end.
        chosen: the profile that is named, or all.
        memory: where PINs go.
        stop: makes the agent stop.
    """

    def __init__(
        self, sock: socket.socket, chosen: Sequence[HeldProfile], *, memory: LockedMemory, stop: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._wire = Wire(sock)
        self._chosen = chosen
        self._memory = memory
        self._stop = stop
        self._acts = {
            Verb.STATUS: self._status,
            Verb.LOCK: self._lock,
            Verb.UNLOCK: self._unlock,
            Verb.REFRESH: self._refresh,
            Verb.STOP: self._ok,
        }

    def serve(self, verb: Verb) -> None:
        """Do what is asked and answer. A peer that is gone or talks nonsense is nobody's loss."""
        with self._sock, suppress(OSError, AgentError):
            self._wire.send(self._acts[verb]())
        if verb is Verb.STOP:
            self._stop()

    def _ok(self) -> bytes:
        return protocol.with_body("ok", b"the agent answers those who wait, and stops")

    def _status(self) -> bytes:
        lines = [f"hwsigner {__version__}\tprocess {os.getpid()}", *(held.status() for held in self._chosen)]
        text = "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines)
        return protocol.with_body("ok", text.encode()[: protocol.MAX_BODY])

    def _lock(self) -> bytes:
        for locked in [held.lock() for held in self._chosen]:
            self._wait(locked)
        names = ", ".join(held.profile.name for held in self._chosen)
        return protocol.with_body("ok", f"locked: {printable(names) or 'nothing'}".encode()[: protocol.MAX_BODY])

    def _refresh(self) -> bytes:
        return self._wait(self._chosen[0].renew())

    def _unlock(self) -> bytes:
        held = self._chosen[0]
        unlocking = self._wait(held.unlock())
        for _ in range(_MAX_QUESTIONS):
            request = unlocking.wanted
            if request is None:
                break
            self._wire.send(protocol.with_body("ask", "\n".join(map(printable, astuple(request)[:-1])).encode()))
            unlocking = self._wait(held.bring(request, self._receive_pin()))
        return unlocking.answer

    def _receive_pin(self) -> memoryview:
        head = self._wire.head(PERSON_LIMIT)
        if head.kind != "pin" or head.size > MAX_PIN_BYTES:
            raise AgentError("no PIN came")
        pin = self._memory.take(head.size)
        self._wire.body_into(pin)
        try:
            str(pin, "utf-8")
        except UnicodeDecodeError:
            # Not chained: the exception would carry the PIN.
            raise AgentError("a PIN came that is not text") from None
        return pin

    def _wait(self, future: Future[_T]) -> _T:
        """Return what comes, and say meanwhile that it is being worked at."""
        while True:
            try:
                return future.result(protocol.WORKING_EVERY)
            except TimeoutError:
                self._wire.send(protocol.WORKING)
