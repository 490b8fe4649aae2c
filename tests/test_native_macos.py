"""Which libcrypto the extension opens on macOS: its code for macOS, on Linux, with copies of the system's library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.conftest import STRICT
from pages import ROOT

pytestmark = pytest.mark.slow

MAIN = """
#include <stdio.h>
#include "libcrypto.h"
int main(void) {
    struct libcrypto libcrypto;
    const char *problem = libcrypto_open(&libcrypto);
    puts(problem != NULL ? problem : libcrypto_path(&libcrypto));
    return 0;
}
"""


class Opener:
    """A program that prints which of two libraries it opens, or why none."""

    def __init__(self, folder: Path) -> None:
        (system, *_) = Path("/usr/lib").glob("*/libcrypto.so.3")
        self.paths = [folder / "homebrew.dylib", folder / "macports.dylib"]
        for path in self.paths:
            shutil.copy(system, path)
            path.chmod(0o644)
        self.program = folder / "opener"
        (folder / "main.c").write_text(MAIN)
        options = ("-D__APPLE__", "-DLIBCRYPTO_PATHS=" + ",".join(f'"{path}"' for path in self.paths))
        native = ROOT / "native"
        files = (folder / "main.c", native / "libcrypto.c", "-o", self.program)
        command = ["gcc", *STRICT, *options, f"-I{native}", *map(str, files)]
        subprocess.run(command, check=True)

    def __call__(self) -> str:
        return subprocess.run([self.program], check=True, capture_output=True, text=True).stdout.rstrip("\n")


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    return Opener(tmp_path)


def test_first_library_is_opened(opener: Opener) -> None:
    assert opener() == str(opener.paths[0])


def test_library_that_can_not_be_loaded_is_skipped(opener: Opener) -> None:
    opener.paths[0].write_bytes(b"for another processor")
    assert opener() == str(opener.paths[1])
    opener.paths[1].unlink()
    assert "invalid ELF header" in opener() or "file too short" in opener()


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_library_that_others_can_write_is_skipped(opener: Opener, mode: int) -> None:
    opener.paths[0].chmod(mode)
    assert opener() == str(opener.paths[1])


@pytest.mark.root
def test_library_of_another_user_is_skipped(opener: Opener) -> None:
    os.chown(opener.paths[0], 65534, 65534)
    assert opener() == str(opener.paths[1])


def test_missing_libraries_are_named(opener: Opener) -> None:
    for path in opener.paths:
        path.unlink()
    assert (
        opener() == "no libcrypto.3.dylib of Homebrew's openssl@3 or MacPorts' openssl3 that is root's or this user's"
    )
