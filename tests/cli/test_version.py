"""`hwsigner version`: which canonicalisation runs, and why it is not the other."""

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
    """Return what was printed below the version, by what it is of."""
    assert (outcome.status, outcome.err) == (0, "")
    version, *rest = outcome.out.splitlines()
    assert version == __version__
    return dict(line.split(": ", 1) for line in rest)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module in the place of the extension."""
    module = ModuleType(NATIVE)
    module.__file__ = "/somewhere/_native.abi3.so"
    vars(module)["OPENSSL_VERSION"] = "OpenSSL 3.9.9"
    monkeypatch.setitem(sys.modules, NATIVE, module)
    monkeypatch.setattr("hwsigner._native", module, raising=False)
    return module


@pytest.mark.parametrize("flags", [(), ("--verbose=false",)])
def test_bare(flags: tuple[str, ...], call: Call) -> None:
    assert call("version", *flags) == Outcome(0, f"{__version__}\n", "")


def test_what_runs_here(call: Call) -> None:
    found = lines(call("version", "--verbose"))
    spec = importlib.util.find_spec(NATIVE)
    if spec is None:
        assert found["canonicalisation"] == f"python (No module named '{NATIVE}')"
    else:
        assert found["canonicalisation"].startswith(f"native ({spec.origin}, OpenSSL 3.")
    assert found["Python"] == platform.python_version()
    assert found["cryptography"] == importlib.metadata.version("cryptography")


@pytest.mark.usefixtures("native")
def test_native(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CANONICAL, "native")
    found = lines(call("version", "--verbose"))
    assert found["canonicalisation"] == "native (/somewhere/_native.abi3.so, OpenSSL 3.9.9)"


@pytest.mark.usefixtures("native")
def test_an_extension_that_canonical_could_not_use(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CANONICAL, "python")
    found = lines(call("version", "--verbose"))
    assert found["canonicalisation"] == "python (/somewhere/_native.abi3.so is of another version)"


def test_libcrypto_is_missing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_library_that_is_not_installed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_requests(name: str) -> str:
        if name == "requests":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_requests)
    found = lines(call("version", "--verbose"))
    assert found["requests"] == "not installed"
    assert set(found) == {"canonicalisation", "Python", "cryptography", "python-pkcs11", "tpm2-pytss", "requests"}
