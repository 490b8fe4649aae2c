"""pcscd, refusing or absent: a library stands for libpcsclite. tests/machine has a real pcscd with polkit."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner._system import pcsc, support
from judges import needs_linux

LIBRARY = """
long SCardEstablishContext(unsigned long scope, void *one, void *two, long *context) {
    *context = 7;
    return scope == 2 && !one && !two ? STATUS : 1;
}
long SCardReleaseContext(long context) { return context != 7; }
"""
HINT = "from hwsigner._system import pcsc; print(pcsc.hint('Insert it'))"


def hint(folder: Path) -> str:
    command = [sys.executable, "-c", HINT]
    done = subprocess.run(command, env={"LD_LIBRARY_PATH": str(folder)}, capture_output=True, text=True, check=True)
    return done.stdout.rstrip()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("(int)0x8010006A", "pcscd refuses this user"),  # SCARD_W_SECURITY_VIOLATION
        ("0", "Insert it"),
        ("(int)0x8010001D", "Insert it. Smart cards and YubiKeys need pcscd, which is not running"),  # E_NO_SERVICE
    ],
)
@needs_linux
def test_hint_names_pcscd_when_it_refuses_or_is_not_running(tmp_path: Path, status: str, expected: str) -> None:
    library = tmp_path / "libpcsclite.so.1"
    (tmp_path / "source.c").write_text(LIBRARY)
    subprocess.run(["gcc", "-shared", f"-DSTATUS={status}", tmp_path / "source.c", "-o", library], check=True)
    assert hint(tmp_path).startswith(expected)


def test_hint_in_wsl_says_how_a_token_gets_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = tmp_path / "osrelease"
    kernel.write_text("6.6.87.1-microsoft-standard-WSL2\n")
    monkeypatch.setattr(support, "_OSRELEASE", str(kernel))
    assert pcsc.hint("Insert it").endswith(". In WSL, first attach the token with usbipd: hwsigner help windows")


def test_library_on_macos_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", opened.append)
    pcsc.open_library("darwin")
    assert opened == ["/System/Library/Frameworks/PCSC.framework/PCSC"]


def test_numbers_on_macos_have_32_bits() -> None:
    # Of <PCSC/wintypes.h>: LONG is int32_t, DWORD uint32_t.
    assert [(each.__name__, ctypes.sizeof(each)) for each in pcsc.integers("darwin")] == [("c_int", 4), ("c_uint", 4)]
    assert [each.__name__ for each in pcsc.integers("linux")] == ["c_long", "c_ulong"]


def test_service_that_does_not_answer_on_macos_is_no_pcscd_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(pcsc, "_status", lambda: 0x8010001D)
    assert pcsc.hint("Insert it").startswith("Insert it. macOS's service for smart cards does not answer")


def test_hint_does_without_the_library(tmp_path: Path) -> None:
    (tmp_path / "libpcsclite.so.1").write_text("not a library")
    assert hint(tmp_path) == "Insert it"
