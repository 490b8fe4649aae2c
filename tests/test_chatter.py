"""Keeping what native libraries print from stderr, for commands alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hwsigner import chatter

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("silenced", [False, True])
def test_a_library_leaves_stderr_alone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, silenced: bool
) -> None:
    monkeypatch.setattr(chatter, "_is_silenced", silenced)
    os.write(2, b"before\n")
    with chatter.quiet(), chatter.quiet():
        os.write(2, b"inside\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == ("before\nafter\n" if silenced else "before\ninside\nafter\n")


def test_stderr_is_back_after_an_error(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatter, "_is_silenced", True)
    with pytest.raises(KeyError), chatter.quiet():
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_many_threads_leave_stderr_as_it_was(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chatter, "_is_silenced", True)

    def work() -> None:
        for _ in range(50):
            with chatter.quiet():
                os.write(2, b"inside\n")

    descriptors = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_closed_stderr_is_no_error() -> None:
    code = "from hwsigner import chatter; chatter.silence()\nwith chatter.quiet(): print('inside')"
    command = f"exec '{sys.executable}' -c \"{code}\" 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "inside\n")
