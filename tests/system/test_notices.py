"""Notices that a token waits for the user, and hiding what native libraries print on stderr, in commands only."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwsigner._system import notices

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shown() -> Iterator[list[str]]:
    lines: list[str] = []
    notices.set_notifier(lines.append)
    yield lines
    notices.set_notifier(None)


def wait_until_shown(shown: list[str], count: int) -> None:
    deadline = time.monotonic() + 60
    while len(shown) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_short_wait_shows_no_notice(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "PATIENCE_SECONDS", 60)  # So that 0.3 seconds are short on a busy machine, too.
    with notices.waiting("soon"):
        time.sleep(0.3)
    monkeypatch.setattr(notices, "PATIENCE_SECONDS", 0)
    time.sleep(0.4)
    assert shown == []


@pytest.mark.slow
def test_each_long_wait_shows_its_notice_once(shown: list[str]) -> None:
    with notices.waiting("one"), notices.waiting("two"):
        wait_until_shown(shown, 2)
        time.sleep(0.3)
    assert sorted(shown) == ["one", "two"]


@pytest.mark.slow
def test_notice_is_shown_after_the_watch_has_slept(shown: list[str]) -> None:
    for number in (1, 2):
        with notices.waiting("touch"):
            wait_until_shown(shown, number)
        time.sleep(0.4)
    assert shown == ["touch"] * 2


@pytest.mark.slow
def test_notice_is_not_shown_when_an_error_ends_the_wait(shown: list[str]) -> None:
    with pytest.raises(ValueError, match="gone"), notices.waiting("touch"):
        raise ValueError("gone")
    time.sleep(0.7)
    assert shown == []


@pytest.mark.slow
def test_forked_child_shows_only_its_own_notices(shown: list[str]) -> None:
    with notices.waiting("parent's"):
        child = os.fork()
        if child == 0:
            shown.clear()  # The parent's may have been shown before the fork.
            with notices.waiting("child's"):
                wait_until_shown(shown, 1)
                time.sleep(0.3)
            os._exit(7 if shown == ["child's"] else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        wait_until_shown(shown, 1)
    assert shown == ["parent's"]


def test_nothing_happens_without_a_notifier() -> None:
    notices.notify("nothing")
    with notices.waiting("nothing"):
        pass


@pytest.mark.parametrize("silenced", [False, True])
def test_output_is_hidden_only_after_silence(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, silenced: bool
) -> None:
    monkeypatch.setattr(notices, "_is_silenced", silenced)
    os.write(2, b"before\n")
    with notices.quiet(), notices.quiet():
        os.write(2, b"inside\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == ("before\nafter\n" if silenced else "before\ninside\nafter\n")


def test_stderr_is_restored_after_an_error(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_is_silenced", True)
    with pytest.raises(KeyError), notices.quiet():
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_many_threads_leave_stderr_as_it_was(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_is_silenced", True)

    def work() -> None:
        for _ in range(50):
            with notices.quiet():
                os.write(2, b"inside\n")

    descriptors = len(os.listdir("/dev/fd"))
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    assert len(os.listdir("/dev/fd")) == descriptors


def test_closed_stderr_is_not_an_error() -> None:
    code = "from hwsigner._system.notices import quiet, silence; silence()\nwith quiet(): print('inside')"
    command = f"exec '{sys.executable}' -c \"{code}\" 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "inside\n")


def test_forked_child_has_its_stderr_while_a_thread_of_the_parent_hides_it() -> None:
    code = """
import os, threading
from hwsigner._system.notices import quiet, silence
silence()
inside, leave = threading.Event(), threading.Event()
def work():
    with quiet():
        inside.set()
        leave.wait()
thread = threading.Thread(target=work)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    os.write(2, b"child\\n")
    with quiet():
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
