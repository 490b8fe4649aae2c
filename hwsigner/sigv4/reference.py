"""Signature Version 4 in plain Python, up to the string to sign: the reference for the C twin in `native/`.

These are pure functions from *text* to bytes. Text is bytes, or a str of ASCII characters; subclasses must not override
anything. For every input the twin returns the same bytes or raises the same type of error. The errors are:

    TypeError    an argument is not text (bytearray and memoryview are not), or a pair is not a tuple of two
    ValueError   a str is not ASCII; bytes can't be part of a request on the wire, or contain a line break that would
                 turn one line into two

Arguments are converted to bytes in order, each completely, before any is checked. `bool(s3)` comes first.

Names are those of the specification (AWS, "Create a signed AWS API request"): canonical request, canonical headers,
signed headers, string to sign, credential scope.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

Text = bytes | str
Pairs = Iterable[tuple[Text, Text]]

UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
"""The characters that percent-encoding leaves alone (RFC 3986, 2.3)."""

TOKEN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
"""The characters of methods and header names (RFC 9110, 5.6.2)."""

_ENCODED = [bytes((byte,)) if byte in UNRESERVED else b"%%%02X" % byte for byte in range(256)]
_ENCODED_BUT_SLASH = [b"/" if byte == ord("/") else encoded for byte, encoded in enumerate(_ENCODED)]
_DECODED = {b"%02X" % byte: bytes((byte,)) for byte in range(256)}


def percent_encode(data: Text, *, slash: bool = False) -> bytes:
    """Return data with every byte except the unreserved ones as `%` and two upper-case hex digits.

    Any `%` in it is encoded too. `slash` leaves `/` alone.
    """
    table = _ENCODED_BUT_SLASH if slash else _ENCODED
    return b"".join([table[byte] for byte in _bytes(data)])


def percent_decode(data: Text, /) -> bytes:
    """Return data with each `%` and two hex digits, in either case, replaced by the byte that they encode.

    A `%` that is not followed by two hex digits is a ValueError.
    """
    first, *others = _bytes(data).split(b"%")
    decoded = [first]
    for part in others:
        byte = _DECODED.get(part[:2].upper())
        if byte is None:
            raise ValueError("a percent sign without two hex digits after it")
        decoded += (byte, part[2:])
    return b"".join(decoded)


def canonical_path(path: Text, /) -> bytes:
    """Return the canonical form of a path, by the rule of every service except S3.

    Dot segments and empty segments are removed, as in RFC 3986, 5.2.4. As in the SDKs, a path that ends in a dot
    segment then has no slash at its end (`/a/b/..` is `/a`). Each segment is percent-encoded once more than it is on
    the wire: `%2F` becomes `%252F`. An encoded dot, `%2E`, is not a dot segment. The path is as on the wire,
    percent-encoded once; empty means `/`. If it does not begin with `/`, or contains a `?` or `#`, which would end it,
    that is a ValueError.
    """
    path = _path(path)
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(percent_encode(segment))
    end = b"/" if segments and path.endswith(b"/") else b""
    return b"/" + b"/".join(segments) + end


def canonical_path_s3(path: Text, /) -> bytes:
    """Return the canonical form of a path by S3's rule: as on the wire, encoded once, with every segment kept.

    A path that `canonical_path` refuses, or with CR, LF or NUL, which this rule does not encode, is a ValueError.
    """
    path = _path(path)
    _require_line(path)
    return path or b"/"


def canonical_query(parameters: Pairs, /) -> bytes:
    """Return the canonical query string: `name=value` joined by `&`, with the `=` even if the value is empty.

    Names and values are encoded first, then sorted by encoded name and, for equal names, by encoded value. Sorting the
    decoded ones or the joined pairs gives another order: `%` sorts before letters, and `=` after `-` and `.`. The
    parameters are decoded names and values.
    """
    pairs = [(percent_encode(name), percent_encode(value)) for name, value in _pairs(parameters)]
    return b"&".join([name + b"=" + value for name, value in sorted(pairs)])


def parse_query(query: Text) -> list[tuple[bytes, bytes]]:
    """Return the decoded parameters of a query string on the wire, in order.

    Each part between `&` is a parameter, even an empty part, and its first `=` ends the name: `a` and `a=` are the same
    parameter, and `&&` contains one with an empty name. A `+` stays a plus, unlike in HTML forms: Signature Version 4
    encodes a space as `%20` and a plus as `%2B`. The query is what follows the `?`; empty means no parameters. A `%`
    that is not followed by two hex digits is a ValueError.
    """
    query = _bytes(query)
    parameters: list[tuple[bytes, bytes]] = []
    for part in query.split(b"&") if query else ():
        name, _, value = part.partition(b"=")
        parameters.append((percent_decode(name), percent_decode(value)))
    return parameters


def canonical_headers(headers: Pairs, /) -> tuple[bytes, bytes]:
    r"""Return the canonical headers and the signed headers.

    Names are in lower case and sorted. Values are trimmed, and each run of white space (space, `\t`, `\v`, `\f`)
    becomes one space, even inside quotes. The values of a repeated header are joined by `,` in their order. The headers
    are those to sign, as on the wire. The canonical headers are `name:value` and a newline each; the signed headers,
    their names joined by `;`. A name that is not a token (RFC 9110, 5.6.2), or a value with CR, LF or NUL, is a
    ValueError.
    """
    values_by_name: dict[bytes, list[bytes]] = {}
    for name, value in _pairs(headers):
        _require_token(name)
        _require_line(value)
        values_by_name.setdefault(name.lower(), []).append(b" ".join(value.split()))
    names = sorted(values_by_name)
    lines = [name + b":" + b",".join(values_by_name[name]) + b"\n" for name in names]
    return b"".join(lines), b";".join(names)


def canonical_request(
    method: Text, path: Text, *, parameters: Pairs, headers: Pairs, payload_hash: Text, s3: bool = False
) -> bytes:
    """Return the canonical request: six parts, separated by line feeds.

    The arguments are those of `canonical_path` (or `canonical_path_s3`), `canonical_query`, `canonical_headers` and
    `payload_hash`, or instead of a hash a keyword that the service accepts. Errors are those of these functions; a
    method that is not a token, and CR, LF or NUL in `payload_hash`, are a ValueError.
    """
    method, path = _bytes(method), _bytes(path)
    parameters, headers, payload_hash = _pairs(parameters), _pairs(headers), _bytes(payload_hash)
    _require_token(method)
    _require_line(payload_hash)
    block, signed_headers = canonical_headers(headers)
    path = canonical_path_s3(path) if s3 else canonical_path(path)
    return b"\n".join((method, path, canonical_query(parameters), block, signed_headers, payload_hash))


def string_to_sign(algorithm: Text, timestamp: Text, *, scope: Text, canonical_request: Text) -> bytes:
    """Return the string to sign: algorithm, timestamp, scope and the canonical request's SHA-256, one per line.

    The algorithm is the first word of the Authorization header, the timestamp `YYYYMMDDTHHMMSSZ`, the scope
    `YYYYMMDD/region/service/aws4_request`. CR, LF or NUL in one of these is a ValueError.
    """
    lines = _bytes(algorithm), _bytes(timestamp), _bytes(scope)
    digest = payload_hash(canonical_request)
    for line in lines:
        _require_line(line)
    return b"\n".join((*lines, digest))


def payload_hash(payload: Text, /) -> bytes:
    """Return the SHA-256 of a payload in lower-case hex, 64 bytes.

    A large payload is hashed with the interpreter's lock released.
    """
    return hashlib.sha256(_bytes(payload)).hexdigest().encode("ascii")


def request_to_sign(
    method: Text, target: Text, headers: Pairs, payload: Text, context: tuple[Text, Text, Text], s3: bool = False, /
) -> tuple[bytes, bytes]:
    """Return the string to sign of a request as it goes on the wire: all stages in one call.

    Args:
        method: as for `canonical_request`.
        target: the path and, after the first `?`, the query, as on the request line: percent-encoded once.
        headers: see `canonical_headers`.
        payload: bytes are the body; a str is its hash or keyword, as for `canonical_request`.
        context: algorithm, timestamp and scope; see `string_to_sign`.
        s3: as for `canonical_request`.

    Returns:
        The string to sign, and the signed headers.

    Raises:
        TypeError, ValueError: as `canonical_request`, `parse_query` and `string_to_sign`; or the context is not a tuple
            of three.
        ValueError: the target contains a `#`, which would end it.
    """
    s3 = bool(s3)
    method, target, headers, hashed = _bytes(method), _bytes(target), _pairs(headers), _payload(payload)
    algorithm, timestamp, scope = _tuple(context, 3)
    if b"#" in target:
        raise ValueError("a target that holds #")
    path, _, query = target.partition(b"?")
    request = canonical_request(
        method, path, parameters=parse_query(query), headers=headers, payload_hash=hashed, s3=s3
    )
    to_sign = string_to_sign(algorithm, timestamp, scope=scope, canonical_request=request)
    return to_sign, canonical_headers(headers)[1]


def sign_hmac(
    method: Text, target: Text, headers: Pairs, payload: Text, context: tuple[Text, Text, Text], s3: bool, key: Text, /
) -> tuple[bytes, bytes]:
    """Return the signature of a request with a signing key (AWS4-HMAC-SHA256): all stages in one call.

    The key, 32 bytes, is that of `hwsigner.sigv4.access_key.signing_key`; all before it are as for `request_to_sign`.
    The result is the signature, 64 lower-case hex digits, and the signed headers. A key of another length is a
    ValueError.
    """
    s3 = bool(s3)
    method, target, headers, payload = _bytes(method), _bytes(target), _pairs(headers), _payload(payload)
    algorithm, timestamp, scope = _tuple(context, 3)
    secret = _bytes(key)
    if len(secret) != hashlib.sha256().digest_size:
        raise ValueError("a signing key that is not 32 bytes long")
    to_sign, names = request_to_sign(method, target, headers, payload, (algorithm, timestamp, scope), s3)
    return hmac.digest(secret, to_sign, "sha256").hex().encode("ascii"), names


def _payload(payload: Text) -> str:
    hashed = _bytes(payload) if isinstance(payload, str) else payload_hash(payload)
    return hashed.decode("ascii")


def _bytes(text: object) -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TypeError(f"bytes or str expected, not {type(text).__name__}")
    if not text.isascii():
        raise ValueError("a str with non-ASCII characters")
    return text.encode("ascii")


def _tuple(value: object, size: int) -> tuple[bytes, ...]:
    if not isinstance(value, tuple) or len(value) != size:
        raise TypeError(f"a tuple of {size} expected")
    return tuple([_bytes(text) for text in value])


def _pairs(pairs: Iterable[object]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in [_tuple(pair, 2) for pair in list(pairs)]]


def _path(text: Text) -> bytes:
    path = _bytes(text)
    if path and not path.startswith(b"/"):
        raise ValueError("a path that does not begin with /")
    if b"?" in path or b"#" in path:
        raise ValueError("a path that holds ? or #")
    return path


def _require_token(value: bytes) -> None:
    if not value or value.translate(None, TOKEN):
        raise ValueError("a method or header name that is empty or holds a character not allowed there")


def _require_line(value: bytes) -> None:
    if b"\n" in value or b"\r" in value or b"\0" in value:
        raise ValueError("CR, LF or NUL in a value that must stay on one line")
