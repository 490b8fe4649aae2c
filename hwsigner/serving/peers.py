"""Whose a connection over the loopback interface is: the kernel's tables of TCP sockets tell (proc_pid_net(5))."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from hwsigner.endpoint import IPAddress, ip_address

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
