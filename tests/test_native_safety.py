"""The canonicalisation in use leaks nothing, limits its memory, and works in threads: both implementations.

native/tests has the tests that need no Python. Tests that measure or limit memory run in their own process.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from examples import scaled
from hwsigner.sigv4 import canonical, reference

NATIVE = canonical.IMPLEMENTATION == "native"
CONTEXT = ("AWS4-HMAC-SHA256", "20260301T000000Z", "20260301/eu-west-1/service/aws4_request")
KEY = bytes(range(200, 232))
MIB = 1 << 20

PREAMBLE = f"""
import hashlib, resource, sys, time
from hwsigner.sigv4 import canonical
assert canonical.IMPLEMENTATION == {canonical.IMPLEMENTATION!r}
request_to_sign = canonical.request_to_sign
CONTEXT = {CONTEXT!r}
MIB = {MIB}

def memory(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))

def outcome(*arguments):
    try:
        return (canonical.sign_hmac if len(arguments) > 6 else request_to_sign)(*arguments)
    except Exception as error:
        return type(error)
"""


def run(script: str) -> str:
    """Run a script after the preamble, and return its output."""
    command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(script)]
    root = Path(canonical.__file__).parents[1]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_million_calls_leave_no_memory_behind() -> None:
    """Valid, refused and wrong calls. The twin in Python is slower and has no memory of its own, so it makes fewer."""
    calls = scaled(1_000_000 if NATIVE else 20_000)
    grown = run(f"""
        headers = [("Host", "example.com"), ("x-amz-date", "20260301T000000Z")]
        many = [(f"n{{i}}", "v") for i in range(17)]
        kinds = [
            ("GET", "/a?b=c", headers, b"body", CONTEXT),
            ("GET", "/" + "%" * 2000, many, "UNSIGNED-PAYLOAD", CONTEXT),
            ("GET", "/?%", headers, b"", CONTEXT),
            ("GET", "/", [*many, ("a b", "c")], b"", CONTEXT),
            ("GET", "/", headers, b"", ("a", "b", "\\n")),
            ("GET", "/", [*many, ("a", None)], b"", CONTEXT),
            ("GET", "/", [("a", "\\xe9")], b"", CONTEXT),
            (None, "/", headers, b"", CONTEXT),
            ("GET", "/", 5, b"", CONTEXT),
            ("GET", "/", headers, b"", CONTEXT, False, b"k" * 32),
            ("GET", "/", headers, b"", CONTEXT, False, b"short"),
            (),
        ]
        def work(times):
            for _ in range(times):
                for arguments in kinds:
                    outcome(*arguments)
        work({calls} // 200)
        before = memory("VmRSS")
        work({calls} // len(kinds))
        print(memory("VmRSS") - before)
    """)
    assert int(grown) < MIB


HUGE = {
    "a header's value": (100 * MIB, "('GET', '/', [('a', b'x' * size)], b'', CONTEXT)"),
    "a header's value with spaces": (8 * MIB, "('GET', '/', [('a', b'x ' * (size // 2))], b'', CONTEXT)"),
    "a header's name": (20 * MIB, "('GET', '/', [(b'x' * size, '')], b'', CONTEXT)"),
    "a body": (100 * MIB, "('PUT', '/', [], b'x' * size, CONTEXT)"),
    "a path": (4 * MIB, "('GET', b'/' + b'%' * size, [], b'', CONTEXT)"),
    "segments": (MIB, "('GET', b'/a/..' * (size // 5), [], b'', CONTEXT)"),
    "a scope": (20 * MIB, "('GET', '/', [], b'', ('a', 'b', b'x' * size))"),
    "parameters": (900_000, "('GET', b'/?' + b'&'.join(names(size // 9)), [], b'', CONTEXT)"),
    "parameters that are equal": (400_000, "('GET', b'/?' + b'a=b&' * (size // 4), [], b'', CONTEXT)"),
    "headers": (900_000, "('GET', '/', [(name, b'v') for name in names(size // 9)], b'', CONTEXT)"),
    "headers of one name": (200_000, "('GET', '/', [('a', 'b')] * (size // 2), b'', CONTEXT)"),
}
"""The size of the input in bytes, and how to make it. There are 100 000 parameters and headers."""

MOST_EACH = 4 if NATIVE else 160
"""Bytes of memory per byte of a long text. In Python, each byte of a path and word of a header is an object."""

MOST_PER_PAIR = 240 if NATIVE else 1500
"""Bytes of memory per parameter or header."""


@pytest.mark.slow
@pytest.mark.parametrize("what", HUGE)
def test_huge_input_takes_memory_and_time_in_proportion(what: str) -> None:
    """The limit of ten seconds of CPU time is far above the linear cost, and far below a quadratic one."""
    size, arguments = HUGE[what]
    printed = run(f"""
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        def names(count):
            return [b"k%07d" % (i * 7919 % 1000003) for i in range(count)]
        def measure(size):
            arguments = {arguments}
            before, started = memory("VmRSS"), time.perf_counter()
            to_sign, signed_headers = request_to_sign(*arguments)
            return time.perf_counter() - started, memory("VmHWM") - before
        seconds, taken = measure({size})
        print(taken, seconds / measure({size} // 4)[0])
    """)
    taken, ratio = map(float, printed.split())
    pairs = 100_000 if "parameters" in what or "headers" in what else 0
    print(f"{what}: {taken / (pairs or size):.1f} bytes for each; a quarter takes a {ratio:.1f}th of the time")
    assert taken < MIB + (pairs * MOST_PER_PAIR if pairs else size * MOST_EACH)


def test_memory_error_is_raised_when_memory_runs_out() -> None:
    run("""
        value, pairs = b"x" * (8 * MIB), [("a", "b")] * 4_000_000
        path, query = b"/" + value, b"/?" + value
        good = ("GET", "/", [("a", "b")], b"", CONTEXT)
        expected = outcome(*good)
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 12 * MIB, before[1]))
        refused = [
            outcome("GET", "/", [("a", value)] * 20, b"", CONTEXT),
            outcome("GET", "/", pairs, b"", CONTEXT),
            outcome("GET", path, [], b"", CONTEXT),
            outcome("GET", query, [], b"", CONTEXT),
            outcome("GET", "/", [], b"", (value, value, value)),
        ]
        resource.setrlimit(resource.RLIMIT_AS, before)
        assert refused == [MemoryError] * 5, refused
        assert outcome(*good) == expected
    """)


def test_threads_get_the_right_results_at_once() -> None:
    """Small and large payloads: small ones are hashed in a context that threads share."""
    payloads = [bytes((i,)) * size for i in range(8) for size in (0, 1000, 65535, 65536, 300_000)]
    requests = [
        ("PUT", f"/{i}?b={i}&a", [("Host", "h" * i), *((f"n{j}", "v") for j in range(i))], payload, CONTEXT)
        for i, payload in enumerate(payloads)
    ]
    expected = [
        (reference.request_to_sign(*request), reference.sign_hmac(*request, False, KEY)) for request in requests
    ]
    begin = threading.Barrier(16)

    def work(offset: int) -> None:
        begin.wait(60)
        for i in [*range(offset, len(requests)), *range(offset)]:
            method, target, headers, payload, context = requests[i]
            assert expected[i] == (
                canonical.request_to_sign(method, target, headers, payload, context),
                canonical.sign_hmac(method, target, headers, payload, context, False, KEY),
            )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


@pytest.mark.slow
def test_interpreter_lock_is_released_while_a_large_payload_is_hashed() -> None:
    started = threading.Event()
    payload = b"x" * (160 * MIB)

    def work() -> None:
        started.set()
        canonical.request_to_sign("PUT", "/", [], payload, CONTEXT)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait(60)
    turns = 0
    while thread.is_alive():
        turns += 1
        thread.join(0.002)
    assert turns > 5


def test_sub_interpreters_can_use_the_canonicalisation() -> None:
    """From Python 3.12 on, each has its own lock and refuses modules that share state."""
    arguments = ("GET", "/a?b=c", [("Host", "example.com")], b"body" * 20_000, CONTEXT)
    expected = reference.request_to_sign(*arguments)
    script = f"assert [request_to_sign(*{arguments!r}) for _ in range(200)] == [{expected!r}] * 200"
    path = f"import sys; sys.path[:] = {sys.path!r}\n"
    interpreters: Any = __import__("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")

    def work(_: int) -> object:
        other = interpreters.create()
        try:
            return interpreters.run_string(other, path + PREAMBLE + script)
        finally:
            interpreters.destroy(other)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [None] * 8
