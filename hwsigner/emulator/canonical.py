"""SigV4's canonical request, rebuilt from a raw request by the rules of S3 or of every other service."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_to_bytes

from hwsigner.emulator.wire import Request

# Services with S3's rules: the path is encoded once and not normalised.
S3_SERVICES = frozenset({"s3", "s3-object-lambda", "s3-outposts"})
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
_UNRESERVED_AND_SLASH = _UNRESERVED | frozenset(b"/")


def canonical_request(
    request: Request,
    signed_headers: tuple[str, ...],
    *,
    payload: str | None = None,
    s3: bool = False,
    presigned: bool = False,
) -> bytes:
    """Return the canonical request of a raw request.

    `signed_headers` are lower-case names, in order. The payload is the last line; by default the hexadecimal SHA-256 of
    the body. By S3's rules, the path is encoded once, and `+` in the query is a space. In a presigned request,
    X-Amz-Signature is in the query, and therefore not signed itself.
    """
    path = _canonical_s3_path(request.path) if s3 else _canonical_path(request.path)
    pairs = query_pairs(request.query, plus_is_space=s3)
    encoded = sorted(
        (_encode(name), _encode(value)) for name, value in pairs if not (presigned and name == b"X-Amz-Signature")
    )
    lines = [request.method, path, "&".join(f"{name}={value}" for name, value in encoded)]
    lines += [f"{name}:{_canonical_value(request.values(name))}" for name in signed_headers]
    lines += ["", ";".join(signed_headers), body_hash(request) if payload is None else payload]
    return "\n".join(lines).encode("latin-1")


def query_pairs(query: str, *, plus_is_space: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the decoded names and values of a raw query, in order."""
    text = query.replace("+", " ") if plus_is_space else query
    parts = (part.partition("=") for part in text.split("&") if part)
    return [(_decode(name), _decode(value)) for name, _, value in parts]


def body_hash(request: Request) -> str:
    """Return the hexadecimal SHA-256 of a request's body."""
    return hashlib.sha256(request.body).hexdigest()


def _canonical_path(path: str) -> str:
    """Return a raw path without empty and dot segments, each segment encoded once more."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(_encode(segment.encode("latin-1")))
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def _canonical_s3_path(path: str) -> str:
    """Return a raw path decoded and encoded again, with every slash and dot segment kept."""
    return _encode(_decode(path), _UNRESERVED_AND_SLASH)


def _canonical_value(values: list[str]) -> str:
    return ",".join(re.sub("[ \t]+", " ", value).strip(" ") for value in values)


def _decode(text: str) -> bytes:
    return unquote_to_bytes(text.encode("latin-1"))


def _encode(raw: bytes, kept: frozenset[int] = _UNRESERVED) -> str:
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in raw)
