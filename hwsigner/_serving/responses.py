"""HTTP responses as finished bytes. A refusal is a response too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

Headers = Mapping[bytes, bytes]

JSON = b"application/json"
TEXT = b"text/plain"


class HTTPResponse(NamedTuple):
    """A response: the status line, the headers and the body; and whether the connection is closed after it."""

    data: bytes
    closes: bool = False

    def closing(self) -> HTTPResponse:
        """Return the same response, after which the connection is closed."""
        return self if self.closes else HTTPResponse(self.data.replace(b"\r\n", b"\r\nconnection: close\r\n", 1), True)


def response(
    body: bytes, media_type: bytes, *, status: HTTPStatus = HTTPStatus.OK, headers: Headers | None = None
) -> HTTPResponse:
    """Return a response after which the connection stays open."""
    fields = {b"content-type": media_type, b"content-length": b"%d" % len(body), **(headers or {})}
    lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode()), *(b"%s: %s" % field for field in fields.items())]
    return HTTPResponse(b"\r\n".join([*lines, b"", body]))


NO_CONTENT = HTTPResponse(b"HTTP/1.1 204 No Content\r\n\r\n")


class HTTPRefusal(Exception):  # noqa: N818  a response, not an error of this program
    """A request that gets no credentials: the status, why (for the client and the log; not secret), and headers."""

    def __init__(self, status: HTTPStatus, reason: str, headers: Headers | None = None) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}

    def response(self) -> HTTPResponse:
        """Return the response. It closes the connection, so that refused clients hold none open."""
        code, reason = self.status.phrase.replace(" ", ""), self.reason
        # The SDK for JavaScript reads `Code` and `Message`, those for Java and Go the others.
        text = json.dumps({"code": code, "message": reason, "Code": code, "Message": reason})
        return response(text.encode(), JSON, status=self.status, headers=self.headers).closing()
