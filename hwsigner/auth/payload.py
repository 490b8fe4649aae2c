"""The hash of a `requests` body, as urllib3 will send it."""

from __future__ import annotations

import hashlib
from typing import Any

from hwsigner.errors import UsageError
from hwsigner.sigv4.reference import payload_hash

_CHUNK = 1 << 20


def hash_body(body: object) -> str | None:
    """Return the SHA-256 of a body in lower-case hex, or None if the body can be read only once.

    A stream is read from its current position, a mebibyte at a time, then set back to it. The body is as in
    `PreparedRequest.body`: bytes, or a stream, buffer or iterable that urllib3 accepts. A stream that can't be set
    back, or a buffer that is not contiguous, is a UsageError; an OSError is the stream's own.
    """
    if isinstance(body, bytes):
        return payload_hash(body).decode("ascii")
    if hasattr(body, "read"):
        return _hash_stream(body)
    if not is_buffer(body):
        return None
    try:
        return hashlib.sha256(body).hexdigest()  # type: ignore[arg-type]
    except BufferError:
        raise UsageError("the body is a buffer in pieces, which can't be sent", "Give its bytes") from None


def is_buffer(body: object) -> bool:
    """Return whether a body is sent from memory, so that it can be sent again."""
    try:
        memoryview(body)  # type: ignore[arg-type]
    except TypeError:
        return False
    return not hasattr(body, "read")


def _hash_stream(stream: Any) -> str | None:
    try:
        start = stream.tell()
        stream.seek(start)
    except (AttributeError, OSError, TypeError, ValueError):
        return None
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk.encode() if isinstance(chunk, str) else chunk)
    stream.seek(start)
    if stream.tell() != start:
        problem = "the body was read to hash it, and its stream does not go back to where it was"
        raise UsageError(problem, "Give bytes, or a stream whose seek() works")
    return digest.hexdigest()
