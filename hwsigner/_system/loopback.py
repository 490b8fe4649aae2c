"""Who has the other end of a TCP connection of this machine. The kernel is asked, through sock_diag(7)."""

from __future__ import annotations

import atexit
import errno
import ipaddress
import itertools
import os
import socket
import struct
import sys
from functools import lru_cache
from typing import Final, NamedTuple

# One end of a connection: an IP address and a port.
Address = tuple[str, int]

KNOWS_OWNERS: Final = sys.platform != "darwin"
"""Whether this system tells users apart. macOS shows other users' sockets to no program."""

ESTABLISHED = 1  # A state of TCP, as in <net/tcp_states.h>.

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_MAX_REPLY = 8192
_ALL_STATES = 0xFFFFFFFF

# struct nlmsghdr, followed by a struct inet_diag_req_v2 or an inet_diag_msg, both with a struct inet_diag_sockid.
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_REQUEST = struct.Struct("=BBxxI")  # family, protocol, states
_ENDS = struct.Struct("!HH16s16s")  # ports and addresses
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_REPLY = struct.Struct("=xBxx")  # state
_REPLY_END = struct.Struct("=12xI4x")  # uid


# A number for each question, which the kernel repeats in its answer.
_numbers = itertools.count(1)
# Sockets to the kernel that no thread is using.
_kernels: list[socket.socket] = []


class Socket(NamedTuple):
    """A socket of this machine: its state of TCP, such as `ESTABLISHED`, and its owner's uid; 0 if it is closed."""

    state: int
    uid: int


def find_owner(client: Address, server: Address) -> int | None:
    """Return the uid of the process that made a connection to this server.

    It is None for a client on another machine or in another network namespace, and for a closed socket. Raises an
    OSError if the kernel can't tell: ENOENT, if it has no tcp_diag module; EAFNOSUPPORT on macOS.
    """
    found = find_socket(client, server)
    # The kernel knows the socket of our own end, or at least the one that listens.
    if found is None and find_socket(server, client) is None:
        raise OSError(errno.ENOENT, "the kernel module tcp_diag is missing")
    return found.uid if found and found.state == ESTABLISHED else None


def find_socket(own: Address, other: Address) -> Socket | None:
    """Return the socket with these ends, or one that listens at the first; None if the kernel finds none.

    Raises an OSError if this process may not ask, or the kernel did not answer.
    """
    if sys.platform == "darwin":
        raise OSError(errno.EAFNOSUPPORT, "macOS does not show the sockets of other users")
    question, number = _question(own, other), next(_numbers) % 2**32
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, number, 0)
    # Kept open, as opening it takes longer than asking; but after an error, as an answer may still come.
    kernel = _kernels.pop() if _kernels else socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    try:
        kernel.sendto(header + question, (0, 0))
        reply, sender = kernel.recvfrom(_MAX_REPLY, socket.MSG_DONTWAIT)
        _, kind, _, answered, _ = _HEADER.unpack_from(reply)
        if sender[0] != 0 or answered != number:
            raise OSError(errno.EPROTO, "the kernel's answer to another question came, or another process answered")
    except BaseException:
        kernel.close()
        raise
    _kernels.append(kernel)
    if kind == _NLMSG_ERROR:
        (error,) = _ERROR.unpack_from(reply, _HEADER.size)
        if error == -errno.ENOENT:
            return None
        raise OSError(-error, os.strerror(-error))
    (state,) = _REPLY.unpack_from(reply, _HEADER.size)
    end = _HEADER.size + _REPLY.size + _ENDS.size + len(_ANY_INTERFACE_AND_COOKIE)
    return Socket(state, *_REPLY_END.unpack_from(reply, end))


@lru_cache(maxsize=64)
def _packed(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return b""
    return (getattr(address, "ipv4_mapped", None) or address).packed


def _question(own: Address, other: Address) -> bytes:
    packed = [_packed(host) for host, _ in (own, other)]
    family = socket.AF_INET6 if len(packed[0]) == 16 else socket.AF_INET
    head = _REQUEST.pack(family, socket.IPPROTO_TCP, _ALL_STATES)
    return head + _ENDS.pack(own[1], other[1], *packed) + _ANY_INTERFACE_AND_COOKIE


@atexit.register
def _close_kernels() -> None:
    for kernel in _kernels:
        kernel.close()
