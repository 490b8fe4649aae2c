"""Notices for a person whom a token waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwsigner.system import notices

ROOT = Path(__file__).parents[2]


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []
    notices.tell_by(lines.append)
    yield lines
    notices.tell_by(None)


def test_what_is_over_soon_is_not_told(told: list[str]) -> None:
    with notices.waiting("soon"):
        time.sleep(0.3)
    time.sleep(0.4)
    assert told == []


def test_several_waits_are_told_once_each(told: list[str]) -> None:
    with notices.waiting("one"), notices.waiting("two"):
        time.sleep(0.9)
    assert sorted(told) == ["one", "two"]


def test_a_wait_is_told_after_the_watch_has_slept(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_IDLE_LOOKS", 1)
    for _ in range(2):
        with notices.waiting("touch"):
            time.sleep(0.7)
        time.sleep(0.4)
    assert told == ["touch"] * 2


def test_an_error_within_a_wait_ends_it(told: list[str]) -> None:
    with pytest.raises(ValueError, match="gone"), notices.waiting("touch"):
        raise ValueError("gone")
    time.sleep(0.7)
    assert told == []


def test_a_forked_child_tells_of_its_own_waits(told: list[str]) -> None:
    with notices.waiting("parent's"):
        child = os.fork()
        if child == 0:
            with notices.waiting("child's"):
                time.sleep(0.8)
            os._exit(7 if told == ["child's"] else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert told == ["parent's"]


def test_without_a_teller_nothing_is_told() -> None:
    notices.tell("nothing")
    with notices.waiting("nothing"):
        pass


WAIT = """
import os, signal, sys, time
from hwsigner.system import notices
if sys.argv[1] == "handled":
    signal.signal(signal.SIGINT, lambda number, frame: os.write(1, b"handled\\n"))
notices.tell_by(lambda line: None, interrupted=None if sys.argv[1] == "library" else 7)
try:
    with notices.waiting("touch"):
        print("waiting", flush=True)
        time.sleep(0.5)
    time.sleep(0.3)
except KeyboardInterrupt:
    print("raised", flush=True)
    time.sleep(0.3)
"""


@pytest.mark.parametrize(("case", "word"), [("command", "raised"), ("library", "raised"), ("handled", "handled")])
def test_an_interrupt_that_python_can_raise_ends_no_process(case: str, word: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WAIT, case], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == f"{word}\n"
        assert process.wait(10) == 0
