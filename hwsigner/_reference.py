"""The canonical forms of Signature Version 4 in plain Python: the definition of correct.

Bytes go in and bytes come out, and nothing else is read or changed: no clock, no file, no state. A faster twin must
return the same bytes and raise the same kind of error for every input, so each function says which inputs it refuses.
Two kinds of error leave this module:

    TypeError    an argument that is not bytes (bytearray and memoryview are not), or a pair that is not a pair
    ValueError   bytes that no request on the wire can hold, or that would let one line pass for two

Names are those of the specification (AWS, "Create a signed AWS API request"): canonical request, canonical headers,
signed headers, string to sign, credential scope.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
"""What percent-encoding leaves alone (RFC 3986, 2.3)."""

TOKEN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
"""What a method and a header's name are made of (RFC 9110, 5.6.2)."""

_ENCODED = [bytes((byte,)) if byte in UNRESERVED else b"%%%02X" % byte for byte in range(256)]
_ENCODED_BUT_SLASH = [b"/" if byte == ord("/") else encoded for byte, encoded in enumerate(_ENCODED)]
_DECODED = {b"%02X" % byte: bytes((byte,)) for byte in range(256)}


def percent_encode(data: bytes, *, slash: bool = False) -> bytes:
    """Return data with every byte but the unreserved ones as `%` and two upper-case hex digits.

    Args:
        data: the bytes to encode; a `%` among them is encoded too.
        slash: leave `/` alone.

    Raises:
        TypeError: data is not bytes.
    """
    _require_bytes(data)
    table = _ENCODED_BUT_SLASH if slash else _ENCODED
    return b"".join([table[byte] for byte in data])


def percent_decode(data: bytes) -> bytes:
    """Return data with each `%` and its two hex digits, of either case, as the byte that they stand for.

    Raises:
        TypeError: data is not bytes.
        ValueError: a `%` that two hex digits do not follow.
    """
    _require_bytes(data)
    first, *others = data.split(b"%")
    decoded = [first]
    for part in others:
        byte = _DECODED.get(part[:2].upper())
        if byte is None:
            raise ValueError("a percent sign without two hex digits after it")
        decoded += (byte, part[2:])
    return b"".join(decoded)


def canonical_path(path: bytes) -> bytes:
    """Return the canonical form of a path, by the rule of every service but S3.

    Dot segments and empty segments go, as in RFC 3986, 5.2.4, with one difference that the SDKs share: a path that
    ends in a dot segment gets no slash at its end (`/a/b/..` is `/a`). Then each segment is percent-encoded, once more
    than it is on the wire: `%2F` becomes `%252F`, and an encoded dot, `%2E`, is no dot segment.

    Args:
        path: as on the wire, percent-encoded once; empty means `/`.

    Raises:
        TypeError: path is not bytes.
        ValueError: path does not begin with `/`, or holds the `?` or `#` that ends a path.
    """
    _require_path(path)
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(percent_encode(segment))
    end = b"/" if segments and path.endswith(b"/") else b""
    return b"/" + b"/".join(segments) + end


def canonical_path_s3(path: bytes) -> bytes:
    """Return the canonical form of a path by S3's rule: as on the wire, encoded that once, with every segment kept.

    Raises:
        TypeError: path is not bytes.
        ValueError: as for `canonical_path`.
    """
    _require_path(path)
    return path or b"/"


def canonical_query(parameters: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the canonical query string: `name=value` joined by `&`, an empty value included.

    Names and values are encoded first and sorted then, by encoded name and, for one name, by encoded value. Sorting
    the decoded ones, or the joined pairs, gives another order: `%` sorts before the letters, `=` after `-` and `.`.

    Args:
        parameters: names and values, decoded.

    Raises:
        TypeError: a name or value is not bytes, or a parameter is no pair.
        ValueError: a parameter has more or fewer than two parts.
    """
    pairs = [(percent_encode(name), percent_encode(value)) for name, value in parameters]
    return b"&".join([name + b"=" + value for name, value in sorted(pairs)])


def parse_query(query: bytes) -> list[tuple[bytes, bytes]]:
    """Return the parameters of a query string as on the wire, decoded, in their order.

    Each part between `&` is a parameter, an empty part too, and the first `=` in it ends its name: `a` and `a=` are
    the same parameter, and `&&` holds one with an empty name. A `+` stays a plus: the space that it means to an HTML
    form is unknown to Signature Version 4, where a space is `%20` only and a plus, encoded, `%2B`.

    Args:
        query: what follows the `?`; empty means no parameters.

    Raises:
        TypeError: query is not bytes.
        ValueError: a `%` that two hex digits do not follow.
    """
    _require_bytes(query)
    parameters: list[tuple[bytes, bytes]] = []
    for part in query.split(b"&") if query else ():
        name, _, value = part.partition(b"=")
        parameters.append((percent_decode(name), percent_decode(value)))
    return parameters


def canonical_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    r"""Return the canonical headers and the signed headers.

    Names are in lower case and sorted. Values are trimmed, and each run of white space (space, `\t`, `\v`, `\f`)
    becomes one space, inside quotes too. The values of a repeated header are joined with `,` in their order.

    Args:
        headers: names and values as on the wire, those to sign only.

    Returns:
        The canonical headers, `name:value` and a newline each; and the signed headers, their names joined by `;`.

    Raises:
        TypeError: a name or value is not bytes, or a header is no pair.
        ValueError: a name that is no token (RFC 9110, 5.6.2), or a value with CR, LF or NUL in it.
    """
    values_by_name: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        _require_token(name)
        _require_line(value)
        values_by_name.setdefault(name.lower(), []).append(b" ".join(value.split()))
    names = sorted(values_by_name)
    lines = [name + b":" + b",".join(values_by_name[name]) + b"\n" for name in names]
    return b"".join(lines), b";".join(names)


def canonical_request(
    method: bytes,
    path: bytes,
    *,
    parameters: Iterable[tuple[bytes, bytes]],
    headers: Iterable[tuple[bytes, bytes]],
    payload_hash: bytes,
) -> bytes:
    """Return the canonical request: six parts, a line feed between them.

    Args:
        method: as on the wire, where its case matters.
        path: see `canonical_path`.
        parameters: see `canonical_query`.
        headers: see `canonical_headers`.
        payload_hash: the SHA-256 of the body in lower-case hex, or the word that a service takes in its place.

    Raises:
        TypeError: as the functions named, or method or payload_hash is not bytes.
        ValueError: as the functions named, or method is no token, or payload_hash holds CR, LF or NUL.
    """
    _require_token(method)
    _require_line(payload_hash)
    block, signed_headers = canonical_headers(headers)
    parts = method, canonical_path(path), canonical_query(parameters), block, signed_headers, payload_hash
    return b"\n".join(parts)


def string_to_sign(algorithm: bytes, timestamp: bytes, *, scope: bytes, canonical_request: bytes) -> bytes:
    """Return the string to sign: algorithm, timestamp, scope and the canonical request's SHA-256, a line each.

    Args:
        algorithm: the name that the Authorization header begins with.
        timestamp: `YYYYMMDDTHHMMSSZ`.
        scope: the credential scope, `YYYYMMDD/region/service/aws4_request`.
        canonical_request: as `canonical_request` returns it.

    Raises:
        TypeError: an argument is not bytes.
        ValueError: algorithm, timestamp or scope holds CR, LF or NUL.
    """
    for line in (algorithm, timestamp, scope):
        _require_line(line)
    _require_bytes(canonical_request)
    digest = hashlib.sha256(canonical_request).hexdigest().encode("ascii")
    return b"\n".join((algorithm, timestamp, scope, digest))


def _require_bytes(value: object) -> None:
    if not isinstance(value, bytes):
        raise TypeError(f"bytes expected, not {type(value).__name__}")


def _require_path(path: bytes) -> None:
    _require_bytes(path)
    if path and not path.startswith(b"/"):
        raise ValueError("a path that does not begin with /")
    if b"?" in path or b"#" in path:
        raise ValueError("a path that holds ? or #")


def _require_token(value: bytes) -> None:
    _require_bytes(value)
    if not value or value.translate(None, TOKEN):
        raise ValueError("a method or header name that is empty or holds a character not allowed there")


def _require_line(value: bytes) -> None:
    _require_bytes(value)
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise ValueError("CR, LF or NUL in a value that must stay on one line")
