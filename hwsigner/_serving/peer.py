"""The client at the other end of a connection, and its user."""

from __future__ import annotations

import asyncio
from functools import cached_property, lru_cache

from hwsigner._http.address import is_loopback
from hwsigner._system.loopback import Address, find_owner

_is_loopback = lru_cache(maxsize=64)(is_loopback)


class Peer:
    """The client of a connection."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    @cached_property
    def client(self) -> Address:
        """The client's end."""
        return self._address("peername")

    @cached_property
    def server(self) -> Address:
        """This server's end."""
        return self._address("sockname")

    @cached_property
    def is_local(self) -> bool:
        """Whether the client reached the server over loopback."""
        return _is_loopback(self.server[0])

    @cached_property
    def uid(self) -> int | None:
        """The client's user; see `find_owner`."""
        return find_owner(self.client, self.server)

    def _address(self, name: str) -> Address:
        found = self._transport.get_extra_info(name)  # None if the client left at once; of a Unix socket, a path.
        return (found[0], found[1]) if isinstance(found, tuple) else ("", 0)
