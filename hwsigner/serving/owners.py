"""Looks up whose connections are, off the event loop; all that wait for it share one look at the kernel's tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hwsigner.serving.peers import Connection, find_owners

Find = Callable[[Sequence[Connection]], list[int | None]]


class Owners:
    """Says whose a connection is, however many ask at once and however long the tables are.

    Args:
        find: finds the owners of connections.
    """

    def __init__(self, find: Find = find_owners) -> None:
        self._find = find
        self._thread = ThreadPoolExecutor(1, "hwsigner-peer")
        self._waiting: dict[Connection, asyncio.Future[int | None]] = {}
        self._look: asyncio.Task[None] | None = None

    async def owner(self, connection: Connection) -> int | None:
        """Return the uid of who made a connection, or None if it can't be told."""
        future = self._waiting.setdefault(connection, asyncio.get_running_loop().create_future())
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_up())
        return await future

    async def _look_up(self) -> None:
        while self._waiting:
            # What comes from now on has a look of its own: this one may have passed it by.
            waiting, self._waiting = self._waiting, {}
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._find, list(waiting))
            for future, user in zip(waiting.values(), found, strict=True):
                if not future.done():  # Its request may have been cancelled.
                    future.set_result(user)
