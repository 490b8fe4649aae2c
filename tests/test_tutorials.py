"""Tutorials, followed to the letter with emulated hardware: each command works, and prints what the page shows.

That of a TPM server needs systemd: `debian.tutorial` follows it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import judges
from pages import ROOT
from transcripts import follow, is_shown

_YES = {r"Type yes to [a-z ]+: ": "yes"}


@pytest.fixture
def home(short_folder: Path) -> Iterator[Path]:
    """A home folder. TPMs that a tutorial did not stop are stopped."""
    folder = short_folder / "jo"
    folder.mkdir()
    yield folder
    for pid_file in folder.glob("*/*/tpm/swtpm.pid"):
        command = [sys.executable, "-m", "softhsm", "stop", str(pid_file.parents[1])]
        subprocess.run(command, cwd=ROOT, check=True)


@judges.needs_libykcs11
@pytest.mark.slow
@pytest.mark.usefixtures("hardware")
def test_tutorial_of_a_yubikey(home: Path) -> None:
    answers = {r"management key for [^\n]*: ": "", r"user PIN for [^\n]*: ": "123456"}
    follow("docs/start/yubikey.md", home, {}, {**_YES, **answers})


@judges.needs_aws_cli
@pytest.mark.slow
@pytest.mark.usefixtures("hardware")
def test_tutorial_of_a_build_agent(home: Path) -> None:
    follow("docs/start/build-agent.md", home, {}, _YES)


@pytest.mark.parametrize(
    ("page", "seen"),
    [
        ("made web.key\n", "made web.key\n"),
        ("a\n…\nd\n", "a\nb\nc\nd\n"),
        ("expires 2027-02-25\n", "expires 2031-01-01\n"),
        ("  a long line that is\n  broken\n", "  a long line\n  that is broken\n"),
        ("", ""),
    ],
)
def test_output_is_that_of_the_page(page: str, seen: str) -> None:
    assert is_shown(page, seen)


@pytest.mark.parametrize(
    ("page", "seen"),
    [
        ("made web.key\n", "made db.key\n"),
        ("a\nb\n", "a\nb\nc\n"),
        ("a\n…\nd\n", "a\nb\nc\n"),
        ("1 finding\n", "2 findings\n"),
        ("a.b\n", "a-b\n"),
        ("a\n", ""),
    ],
)
def test_output_is_not_that_of_the_page(page: str, seen: str) -> None:
    assert not is_shown(page, seen)
