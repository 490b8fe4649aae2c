"""Notices that a token waits for the user."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from hwsigner.system import notices


@pytest.fixture
def shown() -> Iterator[list[str]]:
    lines: list[str] = []
    notices.set_notifier(lines.append)
    yield lines
    notices.set_notifier(None)


def test_short_wait_shows_no_notice(shown: list[str]) -> None:
    with notices.waiting("soon"):
        time.sleep(0.3)
    time.sleep(0.4)
    assert shown == []


def test_each_long_wait_shows_its_notice_once(shown: list[str]) -> None:
    with notices.waiting("one"), notices.waiting("two"):
        time.sleep(0.9)
    assert sorted(shown) == ["one", "two"]


@pytest.mark.slow
def test_notice_is_shown_after_the_watch_has_slept(shown: list[str]) -> None:
    for _ in range(2):
        with notices.waiting("touch"):
            time.sleep(0.7)
        time.sleep(0.4)
    assert shown == ["touch"] * 2


def test_notice_is_not_shown_when_an_error_ends_the_wait(shown: list[str]) -> None:
    with pytest.raises(ValueError, match="gone"), notices.waiting("touch"):
        raise ValueError("gone")
    time.sleep(0.7)
    assert shown == []


def test_forked_child_shows_only_its_own_notices(shown: list[str]) -> None:
    with notices.waiting("parent's"):
        child = os.fork()
        if child == 0:
            with notices.waiting("child's"):
                time.sleep(0.8)
            os._exit(7 if shown == ["child's"] else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert shown == ["parent's"]


def test_nothing_happens_without_a_notifier() -> None:
    notices.notify("nothing")
    with notices.waiting("nothing"):
        pass
