"""The agent's protocol: a client sends a line, the agent answers with lines, some of which announce a body.

docs/how-to/agent.md has the grammar. Flags, key URIs and paths never cross the socket.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from hwsigner.errors import AgentError, printable

# Bytes, in both directions. `native/credentials.c` has the same numbers, and the same limits of time.
MAX_LINE = 96
MAX_BODY = 65536
_MAX_NOTE = 1000
WORKING = b"1 working\n"
UNKNOWN = b"1 unknown\n"
# Reasons of errors: a command has locked the profile, so that clients forget its credentials; or a typed PIN may help.
# `native/credentials.c` has both.
LOCKED, NEEDS_PIN = "locked", "pin"
# Seconds. The agent reports at once, and then at this interval, that it is working.
WORKING_EVERY = 0.5
FIRST_BYTE_LIMIT = 1.0
SILENCE_LIMIT = 5.0
ANSWER_LIMIT = 120.0

_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
_REQUEST = re.compile(rf"1 ([a-z]+)(?: ({_NAME})( notes)?)?".encode())
_HEAD = re.compile(
    rb"1 (?:(working|unknown)|(ok|part|note|ask|pin|session) ([0-9]{1,5})|error ([1-7]) ([0-9]{1,5})(?: (locked|pin))?)"
)


class Verb(StrEnum):
    """What is requested. A profile is named for all but `status`, `stop`, and a `lock` of all profiles."""

    GET = "get"
    STATUS = "status"
    LOCK = "lock"
    UNLOCK = "unlock"
    REFRESH = "refresh"
    PUT = "put"
    STOP = "stop"


_WITH_NAME = {Verb.GET, Verb.UNLOCK, Verb.REFRESH, Verb.PUT}
_WITHOUT_NAME = {Verb.STATUS, Verb.STOP}


def read_status(answer: str) -> list[tuple[str, ...]]:
    """Return the fields of each line of an answer to `status`: two for the agent, then four for each profile."""
    first, *rest = ([*line.split("\t"), "", "", "", ""] for line in answer.splitlines())
    return [tuple(first[:2]), *(tuple(fields[:4]) for fields in rest)]


class AgentRequest(NamedTuple):
    """A request. A profile's name may be empty."""

    verb: Verb
    name: str = ""
    with_notes: bool = False  # For `get`: whether the client understands notes. Those of earlier versions do not.

    def line(self) -> bytes:
        """Return the line that is sent."""
        return f"1 {' '.join(filter(None, (self.verb, self.name, 'notes' * self.with_notes)))}\n".encode()


class Head(NamedTuple):
    """A line of an answer: `working`, `unknown`, `ok`, `part`, `note`, `ask`, `pin`, `session` or `error`."""

    kind: str
    size: int = 0  # Of the body that follows, in bytes; 0 for none.
    status: int = 0  # The exit status of an error, 1 to 7, else 0.
    reason: str = ""  # Of an error: LOCKED, NEEDS_PIN, or nothing of these.


def is_name(name: str) -> bool:
    """Return whether a profile of this name can be requested."""
    return re.fullmatch(_NAME, name) is not None


def parse_request(line: bytes) -> AgentRequest | None:
    """Return the request of a line without its newline, or None if it is invalid."""
    match = _REQUEST.fullmatch(line)
    if match is None or match[1].decode() not in set(Verb):
        return None
    request = AgentRequest(Verb(match[1].decode()), (match[2] or b"").decode(), bool(match[3]))
    wrong = _WITHOUT_NAME if request.name else _WITH_NAME
    is_wrong = request.verb in wrong or (request.with_notes and request.verb is not Verb.GET)
    return None if is_wrong else request


def parse_head(line: bytes) -> Head | None:
    """Return a line of an answer, given without its newline, or None if it is invalid or of another version."""
    match = _HEAD.fullmatch(line)
    if match is None:
        return None
    alone, kind, size, status, error_size, reason = match.groups()
    if alone:
        return Head(alone.decode())
    head = Head((kind or b"error").decode(), int(size or error_size), int(status or 0), (reason or b"").decode())
    return head if (0 if head.kind == "pin" else 1) <= head.size <= MAX_BODY else None


def with_body(kind: str, body: bytes) -> bytes:
    """Return an answer, or a PIN, with its body."""
    return b"1 %s %d\n%s" % (kind.encode(), len(body), body)


def note(text: str) -> bytes:
    """Return a line of text that the client shows to its user."""
    return with_body("note", printable(text).encode("utf-8", "backslashreplace")[:_MAX_NOTE])


def ok(text: str) -> bytes:
    """Return an answer of lines of text, in as many parts as it takes."""
    body = text.encode("utf-8", "backslashreplace")
    parts = [body[begin : begin + MAX_BODY] for begin in range(0, len(body), MAX_BODY)]
    return b"".join(with_body("part", part) for part in parts[:-1]) + with_body("ok", parts[-1])


def error(status: int, text: str, reason: str = "") -> bytes:
    """Return an answer with what went wrong, the exit status for the client, and LOCKED or NEEDS_PIN if that is why."""
    body = printable(text).encode("utf-8", "backslashreplace")[:MAX_BODY]
    return b"1 error %d %d%s\n%s" % (status, len(body), f" {reason}".rstrip().encode(), body)


class Channel:
    """A connection to a client or to the agent, which waits for each message. The socket is closed by the caller."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._is_silent = True
        self.is_refused = False  # Whether the other end has closed it without a byte.

    def send(self, data: bytes) -> None:
        """Send all of some bytes; raises OSError."""
        self._sock.settimeout(SILENCE_LIMIT)
        self._sock.sendall(data)

    def head(self, limit: float) -> Head:
        """Return the next line, which may take some seconds in all; raises an AgentError if none came in time."""
        deadline = time.monotonic() + limit
        line, byte = b"", memoryview(bytearray(1))
        # Byte by byte: a PIN may follow, which is read straight into locked memory.
        while not line.endswith(b"\n") and len(line) < MAX_LINE:
            self._receive_into(byte, deadline)
            line += byte
        head = parse_head(line.removesuffix(b"\n")) if line.endswith(b"\n") else None
        if head is None:
            raise AgentError("the other end of the agent's socket does not speak this version of its protocol")
        return head

    def answer(
        self, limit: float = FIRST_BYTE_LIMIT, note: Callable[[str], None] = lambda _: None
    ) -> tuple[Head, bytes]:
        """Return the last line of an answer, and the body with all of its parts.

        `limit` is the seconds that the first line may take, which can be long if a person waits. `note` shows the user
        what a token waits for.
        """
        deadline = time.monotonic() + ANSWER_LIMIT
        head, body = self.head(limit), bytearray()
        while head.kind in ("working", "part", "note"):
            received = self.body(head)
            if head.kind == "note":
                note(received.decode("utf-8", "replace"))
            else:
                body += received
            head = self.head(min(SILENCE_LIMIT, deadline - time.monotonic()))
        return head, bytes(body + self.body(head))

    def body(self, head: Head) -> bytearray:
        """Return the body that follows a line; raises AgentError."""
        body = bytearray(head.size)
        self.body_into(memoryview(body))
        return body

    def body_into(self, body: memoryview) -> None:
        """Fill a buffer with what comes next; raises AgentError."""
        deadline = time.monotonic() + SILENCE_LIMIT
        filled = 0
        while filled < len(body):
            filled += self._receive_into(body[filled:], deadline)

    def _receive_into(self, buffer: memoryview, deadline: float) -> int:
        """Wait for bytes, store them in a buffer and return how many there are, at least one."""
        try:
            # Never 0: such a socket does not wait, and raises another error.
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            count = self._sock.recv_into(buffer)
        except TimeoutError:
            hint = "Find it with pgrep -af 'hwsigner agent', and stop it with kill if it hangs"
            raise AgentError("the agent does not answer in time", hint) from None
        except OSError as error:
            raise AgentError(f"the agent's socket failed: {error.strerror or error}") from None
        self.is_refused = self._is_silent and count == 0
        self._is_silent = False
        if count == 0:
            raise AgentError("the other end closed the agent's socket")
        return count
