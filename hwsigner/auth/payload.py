"""The hash of a body of `requests`, as urllib3 will send it."""

from __future__ import annotations

import hashlib
from typing import Any

from hwsigner.canonical import payload_hash

_CHUNK = 1 << 20


def hash_body(body: object) -> str | None:
    """Return the SHA-256 of a body in lower-case hex, or None where it can be read only once.

    A stream is read from where it stands, a mebibyte at a time, and set back there.

    Args:
        body: as `PreparedRequest.body` has it: bytes, or a stream, buffer or iterable of urllib3's.
    """
    if isinstance(body, bytes):
        return payload_hash(body).decode("ascii")
    if hasattr(body, "read"):
        return _hash_stream(body)
    try:
        buffer = memoryview(body)  # type: ignore[arg-type]
    except TypeError:
        return None
    return hashlib.sha256(buffer).hexdigest()


def _hash_stream(stream: Any) -> str | None:
    try:
        start = stream.tell()
        stream.seek(start)
    except (AttributeError, OSError):
        return None
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk.encode() if isinstance(chunk, str) else chunk)
    stream.seek(start)
    return digest.hexdigest()
