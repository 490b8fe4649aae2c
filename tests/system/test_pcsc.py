"""pcscd, refusing or absent: a library stands for libpcsclite. tests/machine has a real pcscd with polkit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
def test_hint_names_pcscd_when_it_refuses_or_is_not_running(tmp_path: Path, status: str, expected: str) -> None:
    library = tmp_path / "libpcsclite.so.1"
    (tmp_path / "source.c").write_text(LIBRARY)
    subprocess.run(["gcc", "-shared", f"-DSTATUS={status}", tmp_path / "source.c", "-o", library], check=True)
    assert hint(tmp_path).startswith(expected)


def test_hint_does_without_the_library(tmp_path: Path) -> None:
    (tmp_path / "libpcsclite.so.1").write_text("not a library")
    assert hint(tmp_path) == "Insert it"
