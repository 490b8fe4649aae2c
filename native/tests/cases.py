#!/usr/bin/env python3
"""Write requests and the reference's answers to a file for check.c: `cases.py FILE`.

A case is a byte of flags (1: S3's rule, 2: the request is refused, 4: the context is refused), the number of headers,
and texts: method, target, payload hash, the three of the context, digest, name and value of each header, canonical
request, signed headers, string to sign. Numbers, and the size before each text, are 32 bits, least byte first.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from hwsigner.sigv4 import reference

Pairs = tuple[tuple[bytes, bytes], ...]

COUNTS = (0, 1, 2, 15, 16, 17, 18, 40)
"""Around the number from which qsort does the sorting."""

SIZES = sorted({size + off for size in (85, 170, 341, 512, 682, 1024, 1365, 2048, 4096) for off in (-1, 0, 1, 2)})
"""Around the sizes of the buffers on the stack, and around a third of them: encoding makes one byte three."""

METHODS = (b"GET", b"PUT", b"POST", b"get", b"!#$%&'*+-.^_`|~", b"", b"G T", b"GET\n")
NAMES = (b"Host", b"host", b"HOST", b"a", b"A", b"ab", b"a-", b"aB", b"Z", b"x-amz-date", b"X-Amz-Date", b"x_y", b"x~")
BAD_NAMES = (b"", b"a b", b"a:", b"\xe9")
HASHES = (hashlib.sha256().hexdigest().encode(), b"UNSIGNED-PAYLOAD", b"", b"a\rb")
CONTEXT = (b"AWS4-HMAC-SHA256", b"20260301T000000Z", b"20260301/eu-west-1/service/aws4_request")


class Request(NamedTuple):
    """The arguments of request_to_sign, with the payload's hash in place of the payload."""

    method: bytes = b"GET"
    target: bytes = b"/"
    headers: Pairs = ((b"host", b"example.com"),)
    payload_hash: bytes = b"UNSIGNED-PAYLOAD"
    context: tuple[bytes, bytes, bytes] = CONTEXT
    s3: bool = False


def requests(seed: int = 1, drawn: int = 2500) -> Iterator[Request]:
    """Yield the systematic cases, then random ones."""
    for byte in range(256):
        yield from every_place(bytes((byte,)))
    yield from texts_of_all_sizes()
    yield from all_paths_and_queries()
    yield from many_pairs(Random(seed))
    random = Random(seed)
    for _ in range(drawn):
        yield draw(random)


def every_place(byte: bytes) -> Iterator[Request]:
    """Yield requests with a byte at the beginning, in the middle and at the end of each part."""
    upper, lower = b"%%%02X" % ord(byte), b"%%%02x" % ord(byte)
    for path in (byte, b"/" + byte, b"/a" + byte + b"z", b"/" + upper):
        yield Request(target=path)
        yield Request(target=path, s3=True)
    for name in (byte, b"a" + byte + b"z", b"a" + byte, upper, lower):
        yield Request(target=b"/?" + name)
        yield Request(target=b"/?b=&" + name + b"=" + name + b"&c")
    for triplet in (b"%" + byte + b"1", b"%1" + byte, b"%" + byte, b"%a" + byte + b"&"):
        yield Request(target=b"/?a=" + triplet)
    for text in (byte, b"a" + byte, byte + b"a", b"a" + byte + b"z"):
        yield Request(method=text)
        yield Request(headers=((text, b"1"), (b"host", b"2")))
        yield Request(headers=((b"host", text), (b"a", b"1")))
        yield Request(headers=((b"host", b" " + text + b"\t"), (b"Host", text)))
        yield Request(payload_hash=text)
        for i in range(3):
            context = [*CONTEXT[:i], text, *CONTEXT[i + 1 :]]
            yield Request(context=(context[0], context[1], context[2]))


def texts_of_all_sizes() -> Iterator[Request]:
    """Yield requests with one part about as long as a buffer on the stack, plain or to be encoded."""
    for size, piece in itertools.product(SIZES, (b"a", b"/", b"/.", b"%", b" ", b"a b", b"A", b"&")):
        text = (piece * size)[:size]
        yield Request(target=b"/" + text)
        yield Request(target=b"/" + text, s3=True)
        yield Request(target=b"/?" + text)
        yield Request(target=b"/?a=" + text.replace(b"%", b"%25") + b"&b")
        yield Request(headers=((b"a", text), (b"b", text)))
        yield Request(headers=((text, b""), (b"b", b"")))
        yield Request(headers=((text, b""),))
        yield Request(headers=((b"b", b""), (text, b""), (b"c" + text, b""), (b"d" + text + text, b"")))
        yield Request(method=text)
        yield Request(payload_hash=text, context=(text, b"", text))


def all_paths_and_queries() -> Iterator[Request]:
    """Yield all short paths, queries and header values that consist of special characters."""
    for size in range(7):
        for piece in itertools.product((b"/", b".", b"a"), repeat=size):
            yield Request(target=b"/" + b"".join(piece))
    for size in range(6):
        for piece in itertools.product((b"a", b"=", b"&", b"%41", b"#" if size < 3 else b"."), repeat=size):
            yield Request(target=b"/?" + b"".join(piece))
    for value in itertools.product((b" ", b"\t", b"\v\f", b"a", b","), repeat=4):
        yield Request(headers=((b"a", b"".join(value)), (b"b", b""), (b"A", b"c")))
    for target in (b"", b"?", b"?a", b"?b&a", b"#", b"/#", b"/?#", b"/?a=#", b"/??", b"/?a?b", b"a", b".", b"*"):
        yield Request(target=target)
        yield Request(target=target, s3=True)


def many_pairs(random: Random) -> Iterator[Request]:
    """Yield requests with few and many headers and parameters: sorted, reversed, shuffled, all equal."""
    orders: list[Callable[[list[bytes]], object]] = [list.sort, list.reverse, random.shuffle]
    for count, order in itertools.product(COUNTS, orders):
        names = [b"n%02d" % i for i in range(count)]
        order(names)
        values = [b"%d" % random.randrange(9) for _ in names]
        yield Request(headers=tuple(zip(names, values, strict=True)))
        yield Request(headers=tuple((b"xX"[i % 2 : i % 2 + 1], value) for i, value in enumerate(values)))
        yield Request(headers=tuple((name[:2], value) for name, value in zip(names, values, strict=True)))
        yield Request(target=b"/?" + b"&".join(names))
        yield Request(target=b"/?" + b"&".join(b"a=" + name for name in names))
        yield Request(target=b"/?" + b"&".join(name[:2] + b"=" + name[1:] for name in names))
        yield Request(target=b"/?" + b"&".join(names) + b"&%", headers=())
        yield Request(headers=(*zip(names, values, strict=True), (b"", b"")))


def draw(random: Random) -> Request:
    """Return a random request that looks plausible, with a few odd parts."""

    def text(alphabet: bytes, most: int) -> bytes:
        return bytes(random.choices(alphabet, k=random.choice((0, 1, 2, random.randrange(most)))))

    def odd(usual: tuple[bytes, ...], unusual: tuple[bytes, ...]) -> bytes:
        return random.choice(unusual if random.random() < 0.02 else usual)

    path = b"".join(
        b"/" + random.choice((b".", b"..", b"", text(b"aZ09%~ /;\xc3", 60))) for _ in range(random.randrange(6))
    )
    pieces = (b"a", b"=", b"&", b"%41", b"%2f", b"%C3%a9", b"-", b"~", b"+", b".", b"%20", b"B", b"\xff")
    query = b"".join(odd(pieces, (b"%", b"%4", b"#", b"%zz")) for _ in range(random.randrange(40)))
    headers = [
        (odd(NAMES, BAD_NAMES), text(b'abcXYZ, \t\v\f"=/\x7f\x80', 80) + odd((b"", b" ", b"a"), (b"\n", b"\0", b"\r")))
        for _ in range(random.randrange(24))
    ]
    return Request(
        method=odd(METHODS[:5], METHODS[5:]),
        target=path + random.choice((b"", b"?" + query)),
        headers=tuple(headers),
        payload_hash=odd(HASHES[:3], HASHES[3:]),
        context=(odd(CONTEXT[:1], (b"\n",)), odd(CONTEXT[1:2], (b"", b"\0")), odd(CONTEXT[2:], (b"a\r",))),
        s3=random.random() < 0.3,
    )


def answer(request: Request, digest: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Return the flags, the canonical request, the signed headers, and the string to sign with that digest."""
    flags, canonical, signed, to_sign = int(request.s3), b"", b"", b""
    try:
        path, _, query = request.target.partition(b"?")
        if b"#" in query:
            raise ValueError
        canonical = reference.canonical_request(
            request.method,
            path,
            parameters=reference.parse_query(query),
            headers=request.headers,
            payload_hash=request.payload_hash,
            s3=request.s3,
        )
        signed = reference.canonical_headers(request.headers)[1]
    except ValueError:
        flags |= 2
    try:
        algorithm, timestamp, scope = request.context
        made = reference.string_to_sign(algorithm, timestamp, scope=scope, canonical_request=b"")
        to_sign = made[:-64] + digest
    except ValueError:
        flags |= 4
    return flags, canonical, signed, to_sign


def encode(request: Request) -> bytes:
    """Return a case in the format that check.c reads."""
    digest = hashlib.sha256(request.target).hexdigest().encode()
    flags, *answers = answer(request, digest)
    texts = [request.method, request.target, request.payload_hash, *request.context, digest]
    texts += [text for header in request.headers for text in header]
    sized = [len(text).to_bytes(4, "little") + text for text in (*texts, *answers)]
    return bytes((flags,)) + len(request.headers).to_bytes(4, "little") + b"".join(sized)


def main() -> None:
    """Write the cases to the file named on the command line."""
    Path(sys.argv[1]).write_bytes(b"".join(encode(request) for request in dict.fromkeys(requests())))


if __name__ == "__main__":
    main()
