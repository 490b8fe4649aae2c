"""Asking the kernel whose a TCP socket of this machine is (sock_diag(7)): one socket, however many there are."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from hwsigner.endpoint import ip_address
from hwsigner.serving.peers import Address

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
