"""HTTP/1.1 on the wire (RFC 9112): requests kept raw, and responses as bytes.

`http.server` can't be used. It collapses leading slashes of the path, and its e-mail parser rewrites header values,
but a signature covers the raw bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import BinaryIO

MAX_LINE = 65536
MAX_HEADERS = 100
MAX_BODY = 1 << 20
_REQUEST_LINE = re.compile(rb"([A-Z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.1")
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e]*)?")


class MalformedRequestError(Exception):
    """Bytes that are not an HTTP/1.1 request, or a request that is too large, and the status to respond with."""

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class Request:
    """A raw request, as sent but for the blanks around headers' values. Each character is one byte on the wire."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]  # In order, repeats included.
    body: bytes = b""

    @property
    def path(self) -> str:
        """The raw path."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The raw query, without its question mark."""
        return self.target.partition("?")[2]

    def values(self, name: str) -> list[str]:
        """Return the values of every header with this name (in any case), in order."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """Return the value of the header with this name, or None if there are none or several."""
        values = self.values(name)
        return values[0] if len(values) == 1 else None


@dataclass(frozen=True)
class Response:
    """An HTTP response, without the headers that every response gets."""

    status: int
    content_type: str
    body: bytes
    error_type: str = ""  # Such as "AccessDeniedException".
    headers: tuple[tuple[str, str], ...] = ()

    def with_header(self, name: str, value: str) -> Response:
        """Return the same response with one more header."""
        return replace(self, headers=(*self.headers, (name, value)))

    def head(self, *, now: datetime, request_id: str, length: int | None, close: bool) -> bytes:
        """Return the status line and headers, including the blank line. A length of None omits Content-Length."""
        headers = [("x-amzn-RequestId", request_id), ("Content-Type", self.content_type), *self.headers]
        if not any(name == "Date" for name, _ in self.headers):
            headers.append(("Date", http_date(now)))
        if length is not None:
            headers.append(("Content-Length", str(length)))
        if close:
            headers.append(("Connection", "close"))
        status_line = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"
        return "\r\n".join([status_line, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


def http_date(moment: datetime) -> str:
    """Return a UTC time in the format of the Date header (RFC 9110, 5.6.7)."""
    return format_datetime(moment, usegmt=True)


def read_request(stream: BinaryIO, send: Callable[[bytes], object]) -> Request | None:
    """Read one request, and send `100 Continue` if the client expects it. Return None if the client sent nothing.

    One that is not HTTP/1.1, is cut off, or exceeds a limit of this module is a MalformedRequestError.
    """
    line = _read_line(stream)
    if line is None:
        return None
    match = _REQUEST_LINE.fullmatch(line)
    if not match:
        raise MalformedRequestError("the request line is not METHOD TARGET HTTP/1.1")
    method, target = (part.decode("latin-1") for part in match.groups())
    head = Request(method, target, _read_headers(stream))
    if (head.value("expect") or "").lower() == "100-continue":
        send(b"HTTP/1.1 100 Continue\r\n\r\n")
    return replace(head, body=_read_body(stream, head))


def _read_line(stream: BinaryIO) -> bytes | None:
    line = stream.readline(MAX_LINE)
    if not line:
        return None
    if not line.endswith(b"\r\n"):
        status = 431 if len(line) == MAX_LINE else 400
        raise MalformedRequestError("a line is too long or does not end in CR LF", status)
    return line[:-2]


def _read_headers(stream: BinaryIO) -> tuple[tuple[str, str], ...]:
    headers: list[tuple[str, str]] = []
    while line := _read_line(stream):
        match = _HEADER_LINE.fullmatch(line)
        if not match:
            raise MalformedRequestError("a header line is not NAME: VALUE")
        if len(headers) == MAX_HEADERS:
            raise MalformedRequestError("too many headers", 431)
        name, value = (part.decode("latin-1") for part in match.groups())
        headers.append((name, value.strip(" \t")))
    if line is None:
        raise MalformedRequestError("the headers are cut off")
    return tuple(headers)


def _read_body(stream: BinaryIO, head: Request) -> bytes:
    if head.values("transfer-encoding"):
        return _read_chunked(stream, head)
    if not head.values("content-length"):
        return b""
    length = head.value("content-length") or ""
    if not re.fullmatch("[0-9]{1,9}", length):
        raise MalformedRequestError("Content-Length is not one decimal number")
    if int(length) > MAX_BODY:
        raise MalformedRequestError("the body is too large", 413)
    return _read_exactly(stream, int(length))


def _read_chunked(stream: BinaryIO, head: Request) -> bytes:
    """Read a body in chunks (RFC 9112, 7.1), ignoring its trailer."""
    if (head.value("transfer-encoding") or "").lower() != "chunked":
        raise MalformedRequestError("chunked is the only supported transfer coding", 501)
    if head.values("content-length"):
        raise MalformedRequestError("both Transfer-Encoding and Content-Length are given")
    body = bytearray()
    while size := _read_chunk_size(stream):
        if len(body) + size > MAX_BODY:
            raise MalformedRequestError("the body is too large", 413)
        body += _read_exactly(stream, size)
        if _read_line(stream) != b"":
            raise MalformedRequestError("a chunk does not end in CR LF")
    _read_headers(stream)
    return bytes(body)


def _read_chunk_size(stream: BinaryIO) -> int:
    match = _CHUNK_SIZE.fullmatch(_read_line(stream) or b"")
    if not match:
        raise MalformedRequestError("a chunk does not begin with its size")
    return int(match[1], 16)


def _read_exactly(stream: BinaryIO, length: int) -> bytes:
    body = stream.read(length)
    if len(body) < length:
        raise MalformedRequestError("the body is cut off")
    return body
