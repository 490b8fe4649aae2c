"""The open connections: how many there may be, and how long a client may send nothing."""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections.abc import Callable
from http import HTTPStatus
from itertools import chain
from typing import Protocol

from hwsigner._serving.responses import HTTPRefusal
from hwsigner._system.memory import return_free

MAX_CONNECTIONS = 2048
# Descriptors that are left for anything else, if the process may have fewer.
SPARE_DESCRIPTORS = 64
# After this many connections there is free memory worth returning.
_BURST = 100
# How often to check whether all requests have been answered, at the end.
_DRAIN_LOOK_SECONDS = 0.01
_DRAIN_HEAD_SECONDS = 0.3


def most_connections() -> int:
    """Return how many connections the process's limit of descriptors leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft - SPARE_DESCRIPTORS)


class Connection(Protocol):
    """A connection to account for."""

    def drop(self) -> None:
        """Close it now, without a response."""

    def end(self) -> None:
        """Close it after the response that is being waited for, if any."""

    def refuse(self, refusal: HTTPRefusal) -> None:
        """Send a refusal instead of the response that is being waited for, and close it."""


class Connections:
    """Closes connections that send nothing for too long and, if there are more than `most`, the oldest of them.

    A client that floods the server with connections thus loses its own: one that sends its request at once is answered.
    """

    # From the connection, or the first byte of a further request, to the end of the request's head.
    HEAD_SECONDS = 5.0
    # Between two requests.
    IDLE_SECONDS = 30.0
    # How often connections whose time is over are looked for.
    LOOK_SECONDS = 1.0

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        # By what they do, with the time when they are dropped. The oldest are first, as all get the same time.
        self._receiving: dict[Connection, float] = {}
        self._idle: dict[Connection, float] = {}
        self._busy: dict[Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._peak = 0  # The most connections since memory was last returned.

    def __len__(self) -> int:
        return len(self._receiving) + len(self._idle) + len(self._busy)

    def add(self, connection: Connection) -> None:
        """Add a new connection. If there are too many, drop another, or this one if all others are being answered."""
        if len(self) >= self._most:
            oldest = next(chain(self._receiving, self._idle), None)
            if oldest is None:
                connection.drop()
                return
            self._drop(oldest)
        self._receiving[connection] = self._clock() + self.HEAD_SECONDS
        self._peak = max(self._peak, len(self))
        if self._timer is None:
            self._look_later()

    def receive(self, connection: Connection) -> None:
        """Note that a part of a request has come. Further parts do not extend its time."""
        if connection not in self._receiving:
            self.remove(connection)
            self._receiving[connection] = self._clock() + self.HEAD_SECONDS

    def answer(self, connection: Connection) -> None:
        """Note that a connection waits for a response. It has no time limit meanwhile."""
        self.remove(connection)
        self._busy[connection] = math.inf

    def rest(self, connection: Connection) -> None:
        """Note that a connection has been answered, and may be idle."""
        self.remove(connection)
        self._idle[connection] = self._clock() + self.IDLE_SECONDS

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        for one in (self._idle, self._receiving, self._busy):
            if one.pop(connection, None) is not None:
                return

    def drop_late(self) -> None:
        """Drop the connections whose time is over."""
        now = self._clock()
        for waiting in (self._receiving, self._idle):
            for connection in [one for one, end in waiting.items() if end <= now]:
                self._drop(connection)

    async def drain(self, seconds: float) -> None:
        """Close all connections, after the responses that are being waited for; refuse them after some seconds.

        A connection whose request is still coming has a moment for it.
        """
        begin = self._clock()
        while self._clock() < begin + (_DRAIN_HEAD_SECONDS if self._receiving else seconds if self._busy else 0):
            for connection in [*self._idle, *self._busy]:
                connection.end()
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        for connection in [*self._receiving, *self._idle, *self._busy]:
            connection.end()
        while self._busy and self._clock() < begin + seconds:
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)
        for connection in list(self._busy):
            connection.refuse(HTTPRefusal(HTTPStatus.SERVICE_UNAVAILABLE, "the server is being stopped"))

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        self.drop_late()
        if self._peak >= _BURST and len(self) < self._peak // 2:
            self._peak = len(self)
            return_free()
        if len(self):
            self._look_later()

    def _drop(self, connection: Connection) -> None:
        self.remove(connection)
        connection.drop()
