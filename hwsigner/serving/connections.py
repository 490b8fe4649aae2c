"""The open connections: how many there are, and which of them owe the head of a request."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from typing import Protocol

# Where the process may have so many descriptors; it needs some besides.
MAX_CONNECTIONS = 2048
SPARE_DESCRIPTORS = 64
# From the connection, or the first byte of a further request, to the end of the request's head.
HEAD_SECONDS = 5.0


def most_connections() -> int:
    """Return how many connections the process's limit of descriptors leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft - SPARE_DESCRIPTORS)


class Connection(Protocol):
    """What is kept account of."""

    def drop(self) -> None:
        """End it now."""
        ...

    def is_idle(self) -> bool:
        """Tell whether it has no request that is being answered."""
        ...


class Connections:
    """Ends connections that owe a request for too long, and the longest-owing one where there are too many.

    Whoever floods the server with connections thus ends their own: one that sends its request at once is answered.

    Args:
        clock: tells seconds.
        most: how many there may be.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, most: int) -> None:
        self._clock = clock
        self._most = most
        self._open: dict[Connection, None] = {}
        # With the time when it is due; in the order of these times, since all get the same time.
        self._owing: dict[Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Take a new connection in, which owes a request; or drop it, if there are too many that are answered."""
        if len(self._open) >= self._most and not self._make_room():
            connection.drop()
            return
        self._open[connection] = None
        self.expect(connection)

    def expect(self, connection: Connection) -> None:
        """Note that a connection owes the rest of a request's head, if it did not already."""
        if connection not in self._owing:
            self._owing[connection] = self._clock() + HEAD_SECONDS
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.sweep)

    def settle(self, connection: Connection) -> None:
        """Note that the head of a request is whole."""
        self._owing.pop(connection, None)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._open.pop(connection, None)
        self._owing.pop(connection, None)

    def sweep(self) -> None:
        """End the connections that owe a request for too long, and come back when the next is due."""
        self._timer = None
        now = self._clock()
        for connection, due in list(self._owing.items()):
            if due > now:
                self._timer = asyncio.get_running_loop().call_later(due - now, self.sweep)
                break
            self._end(connection)

    def _make_room(self) -> bool:
        idle = (connection for connection in self._open if connection.is_idle())
        found = next(iter(self._owing), None) or next(idle, None)
        if found is not None:
            self._end(found)
        return found is not None

    def _end(self, connection: Connection) -> None:
        self.remove(connection)
        connection.drop()
