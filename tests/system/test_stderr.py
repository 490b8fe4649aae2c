"""Hiding what native libraries print on stderr, in commands only."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hwsigner.system import stderr

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("silenced", [False, True])
def test_output_is_hidden_only_after_silence(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, silenced: bool
) -> None:
    monkeypatch.setattr(stderr, "_is_silenced", silenced)
    os.write(2, b"before\n")
    with stderr.quiet(), stderr.quiet():
        os.write(2, b"inside\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == ("before\nafter\n" if silenced else "before\ninside\nafter\n")


def test_stderr_is_restored_after_an_error(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stderr, "_is_silenced", True)
    with pytest.raises(KeyError), stderr.quiet():
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_many_threads_leave_stderr_as_it_was(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stderr, "_is_silenced", True)

    def work() -> None:
        for _ in range(50):
            with stderr.quiet():
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


def test_closed_stderr_is_not_an_error() -> None:
    code = "from hwsigner.system import stderr; stderr.silence()\nwith stderr.quiet(): print('inside')"
    command = f"exec '{sys.executable}' -c \"{code}\" 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "inside\n")


def test_forked_child_has_its_stderr_while_a_thread_of_the_parent_hides_it() -> None:
    code = """
import os, threading
from hwsigner.system import stderr
stderr.silence()
inside, leave = threading.Event(), threading.Event()
def work():
    with stderr.quiet():
        inside.set()
        leave.wait()
thread = threading.Thread(target=work)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    os.write(2, b"child\\n")
    with stderr.quiet():
        os.write(2, b"hidden\\n")
    os._exit(0)
os.waitpid(child, 0)
leave.set()
thread.join()
os.write(2, b"parent\\n")
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "child\nparent\n")
