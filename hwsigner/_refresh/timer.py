"""The thread that waits for all sessions that are refreshed in the background."""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol

from hwsigner._system.workers import start_work

# Waiting does not count the time that the machine is suspended, and nothing reports that a clock was set.
LOOK_SECONDS = 60.0


class Refreshing(Protocol):
    """What is refreshed in the background."""

    @property
    def is_stopped(self) -> bool:
        """Whether it is refreshed no more."""

    def until_refresh(self) -> float:
        """Return the seconds until it is due, infinity for never."""

    def work(self) -> None:
        """Refresh it if it is due, and report when it is due again. Must not raise."""


class Timer:
    """The thread that waits for all that refresh in the background, and lets workers refresh those that are due.

    `changes` takes a provider whose state has changed, with None; or one whose worker is done, with the seconds until
    it is due again.
    """

    def __init__(self) -> None:
        # Not a Condition: a signal handler could find its lock taken by the very thread that it interrupts.
        self.changes: SimpleQueue[tuple[Refreshing, float | None]] = SimpleQueue()
        self._due: dict[Refreshing, float] = {}
        self._at_work: dict[Refreshing, bool] = {}  # Whether the state has changed since its worker began.
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hwsigner-timer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        look = time.monotonic() + LOOK_SECONDS
        while True:
            first = min(look, min(self._due.values(), default=math.inf))
            with suppress(Empty):
                self._plan(*self.changes.get(timeout=max(0.0, first - time.monotonic())))
                while True:
                    self._plan(*self.changes.get_nowait())
            now = time.monotonic()
            if now >= look:
                look = now + LOOK_SECONDS
                for provider in list(self._due):
                    self._plan(provider, None)
            for provider in [provider for provider, due in self._due.items() if due <= now]:
                self._due[provider] = math.inf
                self._at_work[provider] = False
                start_work(provider.work)

    def _plan(self, provider: Refreshing, seconds: float | None) -> None:
        """Decide when a provider is due; one that is at work, when its worker is done."""
        if seconds is None and provider in self._at_work:
            self._at_work[provider] = True
            return
        has_changed = self._at_work.pop(provider, False)
        if provider.is_stopped:
            self._due.pop(provider, None)
        else:
            wait = provider.until_refresh() if seconds is None or has_changed else seconds
            self._due[provider] = time.monotonic() + wait


_timer = Timer()


def start_timer() -> None:
    """Start the thread, unless it runs."""
    _timer.start()


def report_change(provider: Refreshing, seconds: float | None = None) -> None:
    """Tell the thread that a state has changed; or that a worker is done, and the seconds until the next is due."""
    _timer.changes.put((provider, seconds))


def _start_in_child() -> None:
    global _timer
    _timer = Timer()


os.register_at_fork(after_in_child=_start_in_child)
