"""What crosses the agent's socket: a line in; lines and one body of stated length out. docs/agent.md has the grammar.

Neither a flag nor a key URI nor a path is among it.
"""

from __future__ import annotations

import re
import socket
import time
from enum import StrEnum
from typing import NamedTuple

from hwsigner.agent import protocol
from hwsigner.errors import AgentError, printable

# Of both directions. `native/credentials.c` has the same figures.
MAX_LINE = 96
MAX_BODY = 65536
WORKING = b"1 working\n"
UNKNOWN = b"1 unknown\n"
# Seconds. The agent says at once, and then in these steps, that it is at work.
WORKING_EVERY = 0.5
FIRST_BYTE_LIMIT = 1.0
SILENCE_LIMIT = 5.0
ANSWER_LIMIT = 120.0

_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_REQUEST = re.compile(rf"1 ([a-z]+)(?: ({_NAME}))?".encode())
_HEAD = re.compile(rb"1 (?:(working|unknown)|(ok|ask|pin) ([0-9]{1,5})|error ([1-7]) ([0-9]{1,5}))")


class Verb(StrEnum):
    """What is asked for. All but `get`, `status`, `stop` and a `lock` of all profiles name a profile."""

    GET = "get"
    STATUS = "status"
    LOCK = "lock"
    UNLOCK = "unlock"
    REFRESH = "refresh"
    STOP = "stop"


_WITH_NAME = {Verb.GET, Verb.UNLOCK, Verb.REFRESH}
_WITHOUT_NAME = {Verb.STATUS, Verb.STOP}


class Request(NamedTuple):
    """A request: what to do, and with which profile; the name may be empty."""

    verb: Verb
    name: str = ""

    def line(self) -> bytes:
        """Return it as it crosses the socket."""
        return f"1 {' '.join(filter(None, self))}\n".encode()


class Head(NamedTuple):
    """A line of an answer.

    Attributes:
        kind: `working`, `unknown`, `ok`, `ask`, `pin` or `error`.
        size: the bytes of the body that follows; 0 for none.
        status: the exit status of an error, 1 to 7, else 0.
    """

    kind: str
    size: int = 0
    status: int = 0


def is_name(name: str) -> bool:
    """Tell whether a profile's name may cross the socket."""
    return re.fullmatch(_NAME, name) is not None


def parse_request(line: bytes) -> Request | None:
    """Return the request of a line without its end, or None if it is none."""
    match = _REQUEST.fullmatch(line)
    if match is None or match[1].decode() not in set(Verb):
        return None
    request = Request(Verb(match[1].decode()), (match[2] or b"").decode())
    wanted = _WITHOUT_NAME if request.name else _WITH_NAME
    return None if request.verb in wanted else request


def parse_head(line: bytes) -> Head | None:
    """Return what a line of an answer says, without its end, or None if it says nothing or is of another version."""
    match = _HEAD.fullmatch(line)
    if match is None:
        return None
    alone, kind, size, status, error_size = match.groups()
    if alone:
        return Head(alone.decode())
    head = Head((kind or b"error").decode(), int(size or error_size), int(status or 0))
    return head if 1 <= head.size <= MAX_BODY else None


def with_body(kind: str, body: bytes) -> bytes:
    """Return an answer, or a PIN, with its body."""
    return b"1 %s %d\n%s" % (kind.encode(), len(body), body)


def error(status: int, text: str) -> bytes:
    """Return an answer that says what went wrong, with the exit status that a client ends with."""
    body = printable(text).encode("utf-8", "backslashreplace")[:MAX_BODY]
    return b"1 error %d %d\n%s" % (status, len(body), body)


class Wire:
    """A connection.

    Args:
        sock: the socket; it stays the caller's to close.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes) -> None:
        """Send all of some bytes; raises OSError."""
        self._sock.settimeout(protocol.SILENCE_LIMIT)
        self._sock.sendall(data)

    def head(self, limit: float) -> Head:
        """Return the next line.

        Args:
            limit: the seconds that it may take as a whole.

        Raises:
            AgentError: none comes in time, or none of this protocol.
        """
        deadline = time.monotonic() + limit
        line, byte = b"", memoryview(bytearray(1))
        # Byte by byte: what follows may be a PIN, which is read to where it stays.
        while not line.endswith(b"\n") and len(line) < protocol.MAX_LINE:
            self._receive_into(byte, deadline)
            line += byte
        head = protocol.parse_head(line.removesuffix(b"\n")) if line.endswith(b"\n") else None
        if head is None:
            raise AgentError("the other end of the agent's socket does not speak this version of its protocol")
        return head

    def answer(self, limit: float = protocol.FIRST_BYTE_LIMIT) -> tuple[Head, bytes]:
        """Return the line that ends an answer, past those that say that the agent is at work, and its body.

        Args:
            limit: the seconds that the first line may take; there is no haste where a person waits.

        Raises:
            AgentError: none comes in time, or none of this protocol.
        """
        deadline = time.monotonic() + protocol.ANSWER_LIMIT
        head = self.head(limit)
        while head.kind == "working":
            head = self.head(min(protocol.SILENCE_LIMIT, deadline - time.monotonic()))
        body = bytearray(head.size)
        self.body_into(memoryview(body))
        return head, bytes(body)

    def body_into(self, body: memoryview) -> None:
        """Fill a buffer with what comes next; raises AgentError."""
        deadline = time.monotonic() + protocol.SILENCE_LIMIT
        filled = 0
        while filled < len(body):
            filled += self._receive_into(body[filled:], deadline)

    def _receive_into(self, buffer: memoryview, deadline: float) -> int:
        """Wait for bytes, put some into a buffer and return how many, one at least."""
        try:
            # Not 0: that is a socket which never waits, and has another error.
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            count = self._sock.recv_into(buffer)
        except TimeoutError:
            hint = "hwsigner agent status asks it; end it if it hangs"
            raise AgentError("the agent does not answer in time", hint) from None
        except OSError as error:
            raise AgentError(f"the agent's socket failed: {error.strerror or error}") from None
        if count == 0:
            raise AgentError("the other end closed the agent's socket")
        return count
