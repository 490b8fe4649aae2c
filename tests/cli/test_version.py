"""`hwsigner version`: the canonicalisation in use, and why it is not the native one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from hwsigner import __version__
from scene import Outcome

Call = Callable[..., Outcome]
CANONICAL = "hwsigner.sigv4.canonical.IMPLEMENTATION"
NATIVE = "hwsigner._native"


def lines(outcome: Outcome) -> dict[str, str]:
    """Return the lines printed below the version, as names and values."""
    assert (outcome.status, outcome.err) == (0, "")
    version, *rest = outcome.out.splitlines()
    assert version == __version__
    return dict(line.split(": ", 1) for line in rest)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module in place of the extension."""
    module = ModuleType(NATIVE)
    module.__file__ = "/somewhere/_native.abi3.so"
    vars(module).update(OPENSSL_VERSION="OpenSSL 3.9.9", LIBCRYPTO="/elsewhere/libcrypto.so.3")
    monkeypatch.setitem(sys.modules, NATIVE, module)
    monkeypatch.setattr("hwsigner._native", module, raising=False)
    return module


@pytest.mark.parametrize("flags", [(), ("--verbose=false",)])
def test_version_is_one_line(flags: tuple[str, ...], call: Call) -> None:
    assert call("version", *flags) == Outcome(0, f"{__version__}\n", "")


def test_verbose_shows_what_runs_here(call: Call) -> None:
    found = lines(call("version", "--verbose"))
    spec = importlib.util.find_spec(NATIVE)
    if spec is None:
        assert found["canonicalisation"] == f"python (No module named '{NATIVE}')"
    else:
        assert found["canonicalisation"].startswith(f"native ({spec.origin}, OpenSSL 3.")
    assert found["Python"] == platform.python_version()
    assert found["cryptography"] == importlib.metadata.version("cryptography")


@pytest.mark.usefixtures("native")
def test_native_canonicalisation_is_shown_with_its_file(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CANONICAL, "native")
    found = lines(call("version", "--verbose"))
    assert found["canonicalisation"] == (
        "native (/somewhere/_native.abi3.so, OpenSSL 3.9.9 in /elsewhere/libcrypto.so.3)"
    )


@pytest.mark.usefixtures("native")
def test_extension_of_another_version_is_reported(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CANONICAL, "python")
    found = lines(call("version", "--verbose"))
    assert found["canonicalisation"] == "python (/somewhere/_native.abi3.so is of another version)"


def test_missing_libcrypto_is_reported(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "libcrypto.so.3: cannot open shared object file: No such file or directory"

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == NATIVE:
                raise ImportError(reason)

    monkeypatch.setattr(CANONICAL, "python")
    monkeypatch.delitem(sys.modules, NATIVE, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert lines(call("version", "--verbose"))["canonicalisation"] == f"python ({reason})"


def test_missing_library_is_reported(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_requests(name: str) -> str:
        if name == "requests":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_requests)
    found = lines(call("version", "--verbose"))
    assert found["requests"] == "not installed"
    assert set(found) == {"canonicalisation", "Python", "cryptography", "python-pkcs11", "tpm2-pytss", "requests"}
