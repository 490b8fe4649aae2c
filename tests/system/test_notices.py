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


def wait_until_shown(shown: list[str], count: int) -> None:
    deadline = time.monotonic() + 60
    while len(shown) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_short_wait_shows_no_notice(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "PATIENCE_SECONDS", 60)  # So that 0.3 seconds are short on a busy machine, too.
    with notices.waiting("soon"):
        time.sleep(0.3)
    monkeypatch.setattr(notices, "PATIENCE_SECONDS", 0)
    time.sleep(0.4)
    assert shown == []


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


def test_notice_is_not_shown_when_an_error_ends_the_wait(shown: list[str]) -> None:
    with pytest.raises(ValueError, match="gone"), notices.waiting("touch"):
        raise ValueError("gone")
    time.sleep(0.7)
    assert shown == []


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
