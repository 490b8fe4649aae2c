"""HTTP/1.1 as it stands on the wire (RFC 9112): a request kept raw, and an answer as bytes.

`http.server` is not used: it collapses leading slashes of the path, and the e-mail parser behind it rewrites
header values. A signature covers the raw ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import BinaryIO

from hwsigner.emulator.answers import Answer

MAX_LINE = 65536
MAX_HEADERS = 100
MAX_BODY = 1 << 20
_REQUEST_LINE = re.compile(rb"([A-Z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.1")
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)")

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e]*)?")


class MalformedRequestError(Exception):
    """Bytes that are no HTTP/1.1 request, or one that is too large.

    Attributes:
        status: the HTTP status to answer with.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class Request:
    """One request, raw. Text is decoded as ISO-8859-1, so each character is one byte of the wire.

    Attributes:
        method: as sent.
        target: path and query as sent.
        headers: names and values as sent, in order, repeats included; only the blanks around a value are gone.
        body: the body's bytes.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
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
        """Return the values of each header of this name (any case), in order."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """Return the value of the header of this name, or None where there is none or more than one."""
        values = self.values(name)
        return values[0] if len(values) == 1 else None


def read_request(stream: BinaryIO, send: Callable[[bytes], object]) -> Request | None:
    """Read one request, and send `100 Continue` when the client waits for it.

    Returns:
        the request, or None when the client closed before it sent a byte.

    Raises:
        MalformedRequestError: not HTTP/1.1, cut off, or over the limits of this module.
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
    return Request(method, target, head.headers, _read_body(stream, head))


def _read_line(stream: BinaryIO) -> bytes | None:
    line = stream.readline(MAX_LINE)
    if not line:
        return None
    if not line.endswith(b"\r\n"):
        raise MalformedRequestError(
            "a line is too long or does not end in CR LF", 431 if len(line) == MAX_LINE else 400
        )
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
    """Read a body in chunks (RFC 9112, 7.1); what its trailer says is of no account."""
    if (head.value("transfer-encoding") or "").lower() != "chunked":
        raise MalformedRequestError("chunked is the only transfer coding that is known here", 501)
    if head.values("content-length"):
        raise MalformedRequestError("Transfer-Encoding and Content-Length are given both")
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


def http_date(moment: datetime) -> str:
    """Return a time, aware and in UTC, in the form of the Date header (RFC 9110, 5.6.7)."""
    return format_datetime(moment, usegmt=True)


def head_bytes(answer: Answer, *, now: datetime, request_id: str, length: int | None, close: bool) -> bytes:
    """Return status line and headers of an answer, up to and with the blank line.

    Args:
        answer: what to answer.
        now: the time for the Date header, unless the answer has one of its own.
        request_id: the value of x-amzn-RequestId.
        length: the value of Content-Length, or None to send none.
        close: whether to say that the connection ends with this answer.
    """
    phrase = HTTPStatus(answer.status).phrase
    headers = [("x-amzn-RequestId", request_id), ("Content-Type", answer.content_type), *answer.headers]
    if not any(name == "Date" for name, _ in answer.headers):
        headers.append(("Date", http_date(now)))
    if length is not None:
        headers.append(("Content-Length", str(length)))
    if close:
        headers.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")
