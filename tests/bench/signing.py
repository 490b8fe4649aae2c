"""The cost of signing, compared with libcrypto, botocore and awscrt: `python tests/bench/signing.py`.

All calls are timed in turn, within one process on one processor. Nothing passes or fails here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import awscrt  # noqa: E402
import botocore  # noqa: E402

from bench import create_session, s3_get  # noqa: E402
from bench.measure import Call, in_turn, pin, table, verdict  # noqa: E402
from hwsigner.sigv4 import canonical  # noqa: E402

FACTOR, ALLOWANCE = 1.3, 0.3e-6
"""Ours may take FACTOR times the floor, plus ALLOWANCE in seconds."""


def row(call: Call, own: Call, bound: str = "") -> list[str]:
    ratio = "1" if call is own else f"{call.ratio(own):.2f}"
    return [call.name, f"{call.median * 1e6:.2f}", ratio, bound]


def at_least(bound: float, call: Call, own: Call) -> str:
    return f"at least {bound:g}: {verdict(call.ratio(own) >= bound)}"


def to_floor(own: Call, floor: Call) -> str:
    """Return the verdict on our bound, by the median over the rounds."""
    pairs = list(zip(own.times, floor.times, strict=True))
    limit = FACTOR * floor.median + ALLOWANCE
    factor = statistics.median((mine - ALLOWANCE) / bare for mine, bare in pairs)
    bound = f"{FACTOR:g} × the floor + {ALLOWANCE * 1e6:g} µs = {limit * 1e6:.2f}"
    return f"at most {bound}: {verdict(factor <= FACTOR)} ({factor:.2f} ×)"


def group(title: str, calls: list[Call], bounds: list[str]) -> str:
    """Return a table of calls compared with the first one. The last rows have bounds."""
    empty = [""] * (len(calls) - len(bounds))
    rows = [row(call, calls[0], bound) for call, bound in zip(calls, [*empty, *bounds], strict=True)]
    return f"{title}:\n\n{table(['Call', 'median, µs', 'ratio to ours', 'bound'], rows)}\n"


def of_create_session(calls: list[Call]) -> str:
    own, floor, _, strict, whole, _ = calls
    size = len(create_session.canonical_request())
    title = f"**CreateSession**, from the request to the string to sign; the canonical request has {size} bytes"
    bounds = [to_floor(own, floor), "", "", at_least(12, strict, own), at_least(12, whole, own), ""]
    return group(title, calls, bounds)


def of_get(calls: list[Call]) -> str:
    own, *botocores, crt = calls[0], *calls[3:]
    bounds = [*(at_least(8, call, own) for call in botocores), f"faster: {verdict(crt.ratio(own) > 1)}"]
    return group("**S3 GET**, the whole signing", calls, bounds)


def of_get_with_headers(calls: list[Call]) -> str:
    own, *botocores = calls
    return group("**The same, with the headers of `requests`**", calls, [at_least(8, call, own) for call in botocores])


def main() -> None:
    """Time every call in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    processor = pin()
    to_sign, get, with_headers = create_session.calls(1000), s3_get.calls(100), s3_get.calls_with_headers(100)
    in_turn([*to_sign, *get, *with_headers], rounds)
    print(f"Python {sys.version.split()[0]}, botocore {botocore.__version__}, awscrt {awscrt.__version__}; ", end="")
    print(f"canonicalisation: {canonical.IMPLEMENTATION}; processor {processor}; {rounds} rounds\n")
    print(f"{of_create_session(to_sign)}\n{of_get(get)}\n{of_get_with_headers(with_headers)}")


if __name__ == "__main__":
    main()
