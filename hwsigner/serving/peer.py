"""Says whose connections are. The kernel is asked for each; else, off the event loop, its tables are looked through."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from hwsigner.http.address import IPAddress, ip_address

TABLES = ("/proc/net/tcp", "/proc/net/tcp6")

_ESTABLISHED = "01"
_UID_FIELD = 3  # After the state: tx:rx tr:when retrnsmt uid …


class Address(NamedTuple):
    """One end of a connection.

    Attributes:
        host: an IP address.
        port: its port.
    """

    host: str
    port: int


class Connection(NamedTuple):
    """A connection as this process has it: the other end and its own."""

    client: Address
    server: Address


def find_owners(connections: Sequence[Connection], tables: tuple[str, str] = TABLES) -> list[int | None]:
    """Return the uid of who made each connection, or None where no open socket of this machine is its other end.

    A socket that has been closed is none: the kernel gives those to uid 0.

    Args:
        connections: the connections; each table is read once for all of them.
        tables: the kernel's tables of IPv4 and IPv6 sockets.
    """
    owners: dict[Connection, int] = {}
    for table, version in zip(tables, (4, 6), strict=True):
        data = _read(table)
        clients = {server: _clients(data, _end(server, version)) for server in {one.server for one in connections}}
        for one in connections:
            uid = clients[one.server].get(_end(one.client, version))
            if uid is not None:
                owners.setdefault(one, uid)
    return [owners.get(one) for one in connections]


def _read(table: str) -> bytes:
    try:
        return Path(table).read_bytes()
    except FileNotFoundError:
        return b""  # A kernel without IPv6.


def _clients(data: bytes, server: str | None) -> dict[str | None, int]:
    """Return the uid of each socket of a table that is connected to a server, by its own end.

    The table is long where many connections were closed lately, so it is not taken apart.
    """
    found: dict[str | None, int] = {}
    if server is None:
        return found
    key = f" {server} {_ESTABLISHED} ".encode()
    at = data.find(key)
    while at >= 0:
        end = data.find(b"\n", at)
        own = data[data.rfind(b" ", 0, at) + 1 : at]
        found[own.decode()] = int(data[at + len(key) : end].split()[_UID_FIELD])
        at = data.find(key, end)
    return found


def _end(address: Address, version: int) -> str | None:
    """Return an end as a table has it, or None where it can't be there.

    An IPv6 socket may be one end of a connection over IPv4; its address is an IPv4-mapped one then.
    """
    host = ip_address(address.host.partition("%")[0])
    if version == 6 and isinstance(host, IPv4Address):
        host = IPv6Address(f"::ffff:{host}")
    if host is None or host.version != version:
        return None
    return f"{_hexadecimal(host)}:{address.port:04X}"


def _hexadecimal(host: IPAddress) -> str:
    """Return an address in words of 32 bits, each in the machine's order of bytes."""
    words = (host.packed[i : i + 4] for i in range(0, len(host.packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


ESTABLISHED = 1

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ENOENT = 2
_MAX_ANSWER = 8192
_NUMBER = 1

# struct nlmsghdr; struct inet_diag_req_v2 and inet_diag_msg, both with a struct inet_diag_sockid.
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBxxI")
_ENDS = struct.Struct("!HH16s16s")
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_ANSWER = struct.Struct("=BBxx")
_REST = struct.Struct("=IIIII")  # expires, rqueue, wqueue, uid, inode
_ALL_STATES = 0xFFFFFFFF


class Found(NamedTuple):
    """A socket.

    Attributes:
        state: of TCP, as `ESTABLISHED`.
        uid: whose it is; 0 where it is closed.
    """

    state: int
    uid: int


def find_socket(own: Address, other: Address) -> Found | None:
    """Return the socket that has one end and is connected to another, or None where the kernel knows of none.

    A kernel without sock_diag for TCP knows of none at all.

    Raises:
        OSError: this process may not ask, or the kernel did not answer.
    """
    question = _question(own, other)
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, _NUMBER, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.sendto(header + question, (0, 0))
        answer, sender = kernel.recvfrom(_MAX_ANSWER, socket.MSG_DONTWAIT)
    _, kind, _, number, _ = _HEADER.unpack_from(answer)
    if sender[0] != 0 or number != _NUMBER:
        raise OSError("another process answered in the kernel's place")
    if kind == _NLMSG_ERROR:
        _raise_unless_missing(answer)
        return None
    return _found(answer)


def _question(own: Address, other: Address) -> bytes:
    ends = [ip_address(end.host.partition("%")[0]) for end in (own, other)]
    packed = [end.packed if end else b"" for end in ends]
    family = socket.AF_INET6 if len(packed[0]) == 16 else socket.AF_INET
    head = _REQUEST.pack(family, socket.IPPROTO_TCP, _ALL_STATES)
    return head + _ENDS.pack(own.port, other.port, *packed) + _ANY_INTERFACE_AND_COOKIE


def _raise_unless_missing(answer: bytes) -> None:
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    if number != -_ENOENT:
        raise OSError(-number, "sock_diag refused")


def _found(answer: bytes) -> Found:
    begin = _HEADER.size
    _, state = _ANSWER.unpack_from(answer, begin)
    rest = begin + _ANSWER.size + _ENDS.size + len(_ANY_INTERFACE_AND_COOKIE)
    return Found(state, _REST.unpack_from(answer, rest)[3])


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
