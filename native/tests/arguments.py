"""Valid and invalid arguments of request_to_sign and sign_hmac."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import cases

SAMPLE = 20
"""One request in this many is used."""
PLAIN: tuple[Any, ...] = ("GET", "/", [("host", "example.com")], b"", ("a", "b", "c"))
KEY = bytes(range(200, 232))


class Text(str):
    """A subclass of str."""


class Data(bytes):
    """A subclass of bytes."""


class Pair(tuple[object, ...]):
    """A subclass of tuple."""


class Undecided:
    """An object without a truth value."""

    def __bool__(self) -> bool:
        raise LookupError("undecided")


def requests() -> Iterator[tuple[object, ...]]:
    """Yield a sample of the requests of cases.py."""
    for i, request in enumerate(itertools.islice(cases.requests(), 0, None, SAMPLE)):
        method, target, headers, payload, context, s3 = request
        yield method, target, headers, payload.decode("ascii") if payload.isascii() and i % 2 else payload, context, s3


def odd_arguments() -> Iterator[tuple[object, ...]]:
    """Yield arguments of wrong and unusual types, and unusual numbers of them."""
    texts = (
        None,
        1,
        bytearray(b"a"),
        memoryview(b"a"),
        ["a"],
        "\xe9",
        "a\ud800",
        "\u20ac",
        Text("a"),
        Data(b"a"),
        "",
        b"",
    )
    for text in (*texts, Text("\xe9"), Data(b"\xe9"), object(), type("Other", (), {})()):
        for i in (0, 1, 3):
            yield (*PLAIN[:i], text, *PLAIN[i + 1 :])
        yield (*PLAIN[:2], [(text, "a")], *PLAIN[3:])
        yield (*PLAIN[:2], [("a", "b"), ("a", text)], *PLAIN[3:])
        yield (*PLAIN[:2], text, *PLAIN[3:])
        for context in (text, (text, "b", "c"), ("a", text, "c"), ("a", "b", text)):
            yield (*PLAIN[:4], context)
    for pairs in ((), [()], [("a",)], [("a", "b", "c")], [["a", "b"]], [Pair(("a", "b"))], ["ab"], {("a", "b"): 1}):
        yield (*PLAIN[:2], pairs, *PLAIN[3:])
    for size in (0, 1, 2, 4):
        yield (*PLAIN[:4], ("a",) * size)
    yield ("GET", "/a//../b", *PLAIN[2:])
    yield (*PLAIN[:4], ["a", "b", "c"])
    yield (*PLAIN[:4], Pair(("a", "b", "c")))
    for count in (15, 16, 17, 40):
        yield (*PLAIN[:2], tuple((f"n{i % 20}", b"%d" % i) for i in range(count)), *PLAIN[3:])
        yield (*PLAIN[:2], [*(("n", "v"),) * count, ("a", None)], *PLAIN[3:])
    truths: tuple[object, ...] = (True, False, 1, 0, None, "", "no", [], Undecided())
    for s3 in truths:
        yield ("GET", "/a//../b", *PLAIN[2:], s3)
    for size in (1, 55, 56, 64, 65535, 65536, 65537, 300_000):
        yield (*PLAIN[:3], b"x" * size, PLAIN[4])
        yield ("GET", b"/" + b"x" * size, *PLAIN[2:])
        yield (*PLAIN[:4], ("a", "b", "c" * size))


def odd_keys() -> Iterator[tuple[object, ...]]:
    """Yield arguments of sign_hmac: wrong and unusual keys, and a right key with the odd arguments above."""
    for key in (KEY, "k" * 32, Data(KEY), b"", KEY[:31], KEY + b"k", "\xe9" * 32, None, bytearray(KEY), 32):
        yield (*PLAIN, False, key)
    for arguments in odd_arguments():
        yield (*arguments[:5], arguments[5] if len(arguments) > 5 else False, KEY)
