"""The hash of a body of `requests`, as urllib3 will send it."""

from __future__ import annotations

import hashlib
from typing import Any

from hwsigner.errors import UsageError
from hwsigner.sigv4.canonical import payload_hash

_CHUNK = 1 << 20


def hash_body(body: object) -> str | None:
    """Return the SHA-256 of a body in lower-case hex, or None where it can be read only once.

    A stream is read from where it stands, a mebibyte at a time, and set back there.

    Args:
        body: as `PreparedRequest.body` has it: bytes, or a stream, buffer or iterable of urllib3's.

    Raises:
        UsageError: a stream that was read and does not go back, or a buffer that is not contiguous.
        OSError: as the stream raises it while it is read.
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
    """Tell whether a body is sent from its memory, so that it can be sent again."""
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
        raise UsageError(
            "the body was read to hash it, and its stream does not go back to where it stood",
            "Give bytes, or a stream whose seek() works",
        )
    return digest.hexdigest()
