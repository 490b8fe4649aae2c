#!/usr/bin/env python3
"""Compare a built extension with hwsigner.sigv4.reference: `twin.py FILE.so`. It takes half a second."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import arguments as made
from arguments import KEY, PLAIN, Text
from growth import check_growth

from hwsigner.sigv4 import reference

MIB = 1 << 20


LOAD = """
import importlib.util
from importlib.machinery import ExtensionFileLoader
spec = importlib.util.spec_from_file_location("_native", {path!r}, loader=ExtensionFileLoader("_native", {path!r}))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


def load(path: str) -> ModuleType:
    """Load the extension from a file, as a new module at each call."""
    spec = importlib.util.spec_from_file_location("_native", path, loader=ExtensionFileLoader("_native", path))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(function: Callable[..., object], arguments: Iterable[object]) -> tuple[object, ...]:
    """Return a function's result, or the type and text of its exception."""
    try:
        return (function(*arguments),)
    except Exception as error:
        return type(error), str(error)


def check_outcomes(module: ModuleType) -> None:
    """Compare results and types of errors with the reference; for odd arguments also the texts of the errors."""
    for arguments in made.requests():
        right = outcome(reference.request_to_sign, arguments)
        assert outcome(module.request_to_sign, arguments)[:1] == right[:1], arguments
    for name, tried in (("request_to_sign", made.odd_arguments()), ("sign_hmac", made.odd_keys())):
        for arguments in tried:
            right = outcome(getattr(reference, name), arguments)
            found = outcome(getattr(module, name), arguments)
            assert found == right or "iterable" in str(right[1:]), (name, arguments, found, right)


def check_calls(module: ModuleType) -> None:
    """Check calls with a wrong number of arguments, exceptions of iterables, names and docstrings."""
    function = module.request_to_sign
    for called, numbers, wrong in (
        (function, "5 or 6", ((), PLAIN[:4], (*PLAIN, False, False))),
        (module.sign_hmac, "7", ((), (*PLAIN, False), (*PLAIN, False, KEY, None))),
    ):
        for arguments in wrong:
            kind, message = outcome(called, arguments)
            assert kind is TypeError, arguments
            assert f"{called.__name__} takes {numbers} arguments, not {len(arguments)}" in str(message)
    try:
        function(*PLAIN, s3=True)
    except TypeError:
        pass
    else:
        raise AssertionError("a keyword is taken")

    def failing() -> Iterator[tuple[str, str]]:
        yield "a", "b"
        raise KeyError("of the caller's")

    for pairs in (failing(), 5):
        assert outcome(function, (*PLAIN[:2], pairs, *PLAIN[3:]))[0] in (KeyError, TypeError)
    for name, rest in (("request_to_sign", "s3=False, /)"), ("sign_hmac", "s3, key, /)")):
        function = getattr(module, name)
        assert function.__name__ == name
        assert function.__text_signature__ == f"($module, method, target, headers, payload, context, {rest}"
        assert function.__doc__ == f"See hwsigner.sigv4.reference.{name}."
    assert module.__doc__ == "The C twin of hwsigner.sigv4.reference."
    assert re.fullmatch(r"OpenSSL 3\.\d+\.\d+.* \d+ \w+ \d{4}", module.OPENSSL_VERSION), module.OPENSSL_VERSION
    assert Path(module.LIBCRYPTO).samefile(mapped_libcrypto()), module.LIBCRYPTO
    public = [name for name in vars(module) if not name.startswith("__")]
    assert public == ["request_to_sign", "sign_hmac", "OPENSSL_VERSION", "LIBCRYPTO"]


def mapped_libcrypto() -> str:
    """Return the one libcrypto in this process's memory: Python's hashlib and the extension share it."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libcrypto.so" in line}
    assert len(mapped) == 1, mapped
    return mapped.pop()


def check_leaks(path: str, module: ModuleType) -> None:
    """Check that calls of each kind, accepted and refused, and loading the module leave no memory behind."""
    function = module.request_to_sign
    for key in (KEY, b"", 5):
        check_growth("a key", 50, partial(outcome, module.sign_hmac, (*PLAIN, False, key)))
    word, name = Text("a name"), type("A_class_with_a_name", (), {})
    many = tuple((word + str(i), word) for i in range(30))
    good = tuple((f"n{i}", "v") for i in range(30))
    for arguments in (
        PLAIN,
        ("GET", b"/" + b"x" * 70_000, good, b"x" * 70_000, ("a", "b", "c" * 5000)),
        ("GET", b"/?" + b"&" * 3000 + b"%", *PLAIN[2:]),
        ("GET", "/", many, *PLAIN[3:]),
        ("GET", "/", [("a", name())], *PLAIN[3:]),
        ("GET", "/", [*good, ("a", "\xe9")], *PLAIN[3:]),
        ("GET", "/", iter([("a", "b"), ("c", "d")]), b"", ("a", "b", "\n")),
        ("GET", "/", 7, *PLAIN[3:]),
        ("a\ud800", "/", (), b"", ("a", "b")),
    ):
        counts = sys.getrefcount(word), sys.getrefcount(name.__name__), sys.getrefcount(good), sys.getrefcount(PLAIN)
        check_growth(repr(arguments)[:60], 50, partial(outcome, function, arguments))
        assert counts == (
            sys.getrefcount(word),
            sys.getrefcount(name.__name__),
            sys.getrefcount(good),
            sys.getrefcount(PLAIN),
        )
    # The import system frees a few blocks later.
    check_growth("module", 100, lambda: load(path), blocks_each=5)


def check_shortage(function: Callable[..., object]) -> None:
    """Check that every allocation that fails raises MemoryError."""
    value, accents = b"x" * (32 * MIB), "\xe9" * (24 * MIB)
    pairs = (("a", "b"),) * 2_000_000
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 12 * MIB, before[1]))
    try:
        for arguments in (
            (*PLAIN[:2], [("a", value)] * 20, *PLAIN[3:]),
            (*PLAIN[:2], pairs, *PLAIN[3:]),
            (*PLAIN[:4], (value, value, value)),
            (accents, *PLAIN[1:]),
            (*PLAIN[:2], [("a", accents)], *PLAIN[3:]),
        ):
            assert outcome(function, arguments)[0] is MemoryError, str(arguments)[:60]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert outcome(function, PLAIN) == outcome(reference.request_to_sign, PLAIN)


def check_lock(function: Callable[..., object]) -> None:
    """Check that other threads run while a large payload is hashed."""
    payload = b"x" * (64 * MIB)
    thread = threading.Thread(target=function, args=(*PLAIN[:3], payload, PLAIN[4]))
    turns = 0
    thread.start()
    while thread.is_alive():
        turns += 1
        thread.join(0.001)
    assert turns > 4, turns


def check_interpreters(path: str) -> None:
    """Check that the module works in sub-interpreters; from Python 3.12 on, each has its own lock."""
    script = (
        LOAD.format(path=path) + f"assert module.request_to_sign(*{PLAIN!r}) == {reference.request_to_sign(*PLAIN)!r}"
    )
    interpreters: Any = __import__("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    for _ in range(3):
        other = interpreters.create()
        failure = interpreters.run_string(other, script)
        interpreters.destroy(other)
        assert failure is None, failure


def check_without_sha256(path: str) -> None:
    """Check that the import fails if libcrypto is configured without SHA-256. hwsigner then uses the Python twin."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("openssl_conf = a\n[a]\nproviders = b\n[b]\nnull = c\n[c]\nactivate = 1\n")
        file.flush()
        done = subprocess.run(
            [sys.executable, "-c", LOAD.format(path=path)],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "OPENSSL_CONF": file.name},
        )
    assert done.returncode == 1, done
    assert done.stderr.endswith("ImportError: libcrypto has no SHA-256\n"), done


def main() -> None:
    """Check the extension named on the command line."""
    path = sys.argv[1]
    module = load(path)
    function = module.request_to_sign
    check_outcomes(module)
    check_calls(module)
    check_lock(function)
    check_interpreters(path)
    check_without_sha256(path)
    check_leaks(path, module)
    check_shortage(function)


if __name__ == "__main__":
    main()
