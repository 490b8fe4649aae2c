"""How the cost of signing grows with the size of the request."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Callable, Iterable
from timeit import Timer
from typing import BinaryIO

import requests

from bench.create_session import ARGUMENTS, BODY, HEADERS
from bench.measure import CLOCK, table
from bench.s3_get import URL, ours
from hwsigner.sigv4.canonical import request_to_sign

CONTEXT = ARGUMENTS[4]
SIZES = [10**exponent for exponent in range(3, 9)]
COUNTS = [10**exponent for exponent in range(2, 6)]


def least(call: Callable[[object], object], argument: object, number: int) -> float:
    """Return the seconds of a call: the lowest of five means, each over `number` calls."""
    timer = Timer("call(argument)", timer=CLOCK, globals={"call": call, "argument": argument})
    return min(timer.repeat(5, number)) / number


def body(payload: object) -> object:
    return request_to_sign("PUT", "/", HEADERS, payload, CONTEXT)  # type: ignore[arg-type]


def hashed(payload: object) -> object:
    return hashlib.sha256(payload).digest()  # type: ignore[arg-type]


def header(value: object) -> object:
    return request_to_sign("GET", "/", [*HEADERS, ("X-Amz-Meta", value)], BODY, CONTEXT)  # type: ignore[list-item]


def query(target: object) -> object:
    return request_to_sign("GET", target, HEADERS, BODY, CONTEXT)  # type: ignore[arg-type]


def headers(pairs: object) -> object:
    return request_to_sign("GET", "/", pairs, BODY, CONTEXT)  # type: ignore[arg-type]


def shuffled(count: int) -> list[str]:
    names = [f"name{number:06}" for number in range(count)]
    random.Random(4).shuffle(names)
    return names


def target_of(count: int) -> str:
    return "/?" + "&".join(f"{name}=a%2Fvalue" for name in shuffled(count))


def headers_of(count: int) -> list[tuple[str, str]]:
    return [(name, "a value") for name in shuffled(count)]


def file_of(file: BinaryIO, size: int) -> BinaryIO:
    file.truncate(0)
    file.seek(0)
    for _ in range(0, size, 10**6):
        file.write(random.Random(size).randbytes(min(size, 10**6)))
    file.seek(0)
    return file


def stream(file: object) -> object:
    """Sign a request whose body is a file, which is read and rewound."""
    return ours()(requests.Request("PUT", URL, data=file).prepare())


def file_hash(file: object) -> object:
    file.seek(0)  # type: ignore[attr-defined]
    found = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
    file.seek(0)  # type: ignore[attr-defined]
    return found


def cells(call: Callable[[object], object], make: Callable[[int], object], sizes: Iterable[int]) -> list[str]:
    """Return the nanoseconds per byte or pair for every size."""
    return [f"{least(call, make(size), max(1, 10**6 // size)) * 1e9 / size:.3g}" for size in sizes]


def report() -> str:
    """Return two Markdown tables: nanoseconds per byte, and nanoseconds per pair."""
    with tempfile.TemporaryFile(prefix="hwsigner-bench-") as file:
        by_bytes = [
            ["a body", *cells(body, bytes, SIZES)],
            ["`hashlib.sha256` of it", *cells(hashed, bytes, SIZES)],
            ["a header's value", *cells(header, lambda size: "v" * size, SIZES)],
            ["the same, half of it spaces", *cells(header, lambda size: "v " * (size // 2), SIZES)],
            ["a file as the body, `SigV4Auth`", *cells(stream, lambda size: file_of(file, size), SIZES)],
            ["`hashlib.file_digest` of it", *cells(file_hash, lambda size: file_of(file, size), SIZES)],
        ]
    by_pairs = [
        ["parameters of a query", *cells(query, target_of, COUNTS)],
        ["headers", *cells(headers, headers_of, COUNTS)],
    ]
    return "\n\n".join(
        (
            table(["ns per byte", *(f"{size:,}" for size in SIZES)], by_bytes),
            table(["ns per pair", *(f"{count:,}" for count in COUNTS)], by_pairs),
        )
    )
