from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def demo(short_folder: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TMPDIR": str(short_folder)}
    with subprocess.Popen(
        [sys.executable, "-m", "softhsm.demo"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.terminate()


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert [command for command in commands if os.fsencode(folder) in command] == []


def test_three_identities_and_two_refusals(demo: subprocess.Popen[str], short_folder: Path) -> None:
    out, errors = demo.communicate(timeout=120)
    assert demo.returncode == 0, errors
    arns = re.findall(r"arn:aws:sts::\d{12}:assumed-role/\S+", out)
    assert len(set(arns)) == 3
    refusals = [line for line in out.splitlines() if ": refused: " in line]
    assert len(refusals) == 2
    assert "SignatureDoesNotMatch" in refusals[0]
    assert "Untrusted Signing Certificate" in refusals[1]
    assert_nothing_is_left(short_folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(demo: subprocess.Popen[str], short_folder: Path, number: signal.Signals) -> None:
    assert demo.stdout
    while "hwsigner emulator" not in demo.stdout.readline():
        assert demo.poll() is None
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130, errors
    assert "Traceback" not in errors
    assert_nothing_is_left(short_folder)
