"""Answers as ASGI messages, made before they are wanted, and refusals, which are answers as well."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

Headers = Mapping[bytes, bytes]

JSON = b"application/json"
TEXT = b"text/plain"


class Answer(NamedTuple):
    """An answer: the two ASGI messages that send it, and the same as it goes on the wire.

    Attributes:
        start: `http.response.start`, with the status and the headers.
        body: `http.response.body`.
        wire: status line, headers and body, for a connection that stays open.
    """

    start: dict[str, Any]
    body: dict[str, Any]
    wire: bytes


def answer(body: bytes, kind: bytes, *, status: HTTPStatus = HTTPStatus.OK, headers: Headers | None = None) -> Answer:
    """Return an answer.

    Args:
        body: what it holds.
        kind: its media type.
        status: its status.
        headers: more of its headers.
    """
    length = b"%d" % len(body)
    named = {b"content-type": kind, b"content-length": length, **(headers or {})}
    start = {"type": "http.response.start", "status": int(status), "headers": list(named.items())}
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), *(b"%s: %s" % header for header in named.items())]
    wire = b"\r\n".join([*lines, b"", body])
    return Answer(start, {"type": "http.response.body", "body": body}, wire)


class Admitted(NamedTuple):
    """What answers a request that was let in, and the same request when it comes again.

    Attributes:
        now: returns the answer if it is there; raises a Refusal where it may be given no more.
        later: returns the answer after a wait, where `now` returned None.
    """

    now: Callable[[], Answer | None]
    later: Callable[[], Awaitable[Answer]]


class Refusal(Exception):  # noqa: N818  the endpoint's answer, and no fault of this program
    """A request that gets no credentials.

    Attributes:
        status: the answer's status.
        reason: why, for the client and the log; no secret.
        headers: more headers of the answer.
    """

    def __init__(self, status: HTTPStatus, reason: str, headers: Headers | None = None) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}

    def answer(self) -> Answer:
        """Return the answer, after which the connection ends: who is refused holds none open."""
        text = json.dumps({"code": self.status.phrase.replace(" ", ""), "message": self.reason})
        return answer(text.encode(), JSON, status=self.status, headers={b"connection": b"close", **self.headers})
