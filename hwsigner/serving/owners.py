"""Says whose connections are. The kernel is asked for each; else, off the event loop, its tables are looked through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hwsigner.serving.peers import Address, Connection, find_owners
from hwsigner.serving.sock_diag import ESTABLISHED, Found, find_socket

Ask = Callable[[Address, Address], Found | None]
Find = Callable[[Sequence[Connection]], list[int | None]]


class Owners:
    """Says whose a connection is, however many ask at once and however many connections there are.

    Args:
        ask: asks the kernel for a socket.
        find: finds the owners of connections in the tables, where the kernel gives no answer.
    """

    def __init__(self, ask: Ask = find_socket, find: Find = find_owners) -> None:
        self._ask: Ask | None = ask
        self._find = find
        self._knows = False
        self._thread = ThreadPoolExecutor(1, "hwsigner-peer")
        self._waiting: dict[Connection, asyncio.Future[int | None]] = {}
        self._look: asyncio.Task[None] | None = None

    async def owner(self, connection: Connection) -> int | None:
        """Return the uid of who made a connection, or None if nobody is found; raises what a look at the tables did."""
        if self._ask:
            try:
                client = self._ask(connection.client, connection.server)
                if client or self._has_answers(self._ask, connection):
                    return client.uid if client and client.state == ESTABLISHED else None
            except OSError:  # It will not be otherwise the next time.
                self._ask = None
        future = self._waiting.setdefault(connection, asyncio.get_running_loop().create_future())
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_up())
        return await future

    def _has_answers(self, ask: Ask, connection: Connection) -> bool:
        """Tell whether the kernel knows of any socket, such as our own end; one without sock_diag for TCP does not."""
        self._knows = self._knows or ask(connection.server, connection.client) is not None
        return self._knows

    async def _look_up(self) -> None:
        while self._waiting:
            # What comes from now on has a look of its own: this one may have passed it by.
            waiting, self._waiting = self._waiting, {}
            for future, outcome in zip(waiting.values(), await self._found(list(waiting)), strict=True):
                if future.done():
                    continue  # Its request may have been cancelled.
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    async def _found(self, connections: Sequence[Connection]) -> Sequence[int | Exception | None]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._find, connections)
        except Exception as error:  # Each who waits is told, and the next look may succeed.
            return [error] * len(connections)
