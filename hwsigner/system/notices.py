"""Notices that a token waits for the user: for a touch, or for a PIN typed on its keypad.

The library shows none by itself. A program that wants them calls `set_notifier`, as the commands do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

Notify = Callable[[str], None]
Guard = Callable[[], AbstractContextManager[object]]

# A shorter wait is not worth a notice.
PATIENCE_SECONDS = 0.5
_POLL_SECONDS = 0.1
_NOTHING = nullcontext()


def set_notifier(notify: Notify | None, guard: Guard = nullcontext) -> None:
    """Choose the callable that shows notices.

    Args:
        notify: takes one line; None to show no notices. It may be called from any thread and must not raise.
        guard: returns a context manager that is open during each wait, in the waiting thread.
    """
    global _notify, _guard
    _notify, _guard = notify, guard


def notify(text: str) -> None:
    """Show the user a notice at once."""
    if _notify is not None:
        _notify(text)


def waiting(text: str) -> AbstractContextManager[object]:
    """Show the user a notice if the body of the `with` statement takes more than half a second."""
    return _NOTHING if _notify is None else _Wait(text, _notify, _guard())


class _Wait:
    def __init__(self, text: str, notify: Notify, guard: AbstractContextManager[object]) -> None:
        self.text = text
        self.notify = notify
        self.since = time.monotonic()
        self.is_shown = False
        self._guard = guard

    def __enter__(self) -> None:
        self._guard.__enter__()
        _watch.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _watch.end(self)
        self._guard.__exit__(kind, error, trace)


class _Watch:
    """The thread that shows the notices of long waits. The first wait starts it; it sleeps while there are none.

    It polls, so that a wait wakes it ten times a second at most: most signatures are over at once.
    """

    def __init__(self) -> None:
        self._waits: dict[_Wait, None] = {}
        self._wake = threading.Event()
        self._is_asleep = False
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, wait: _Wait) -> None:
        self._waits[wait] = None
        if self._is_asleep:
            self._wake.set()
        if self._thread is None:
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="hwsigner-notices", daemon=True)
                    self._thread.start()

    def end(self, wait: _Wait) -> None:
        self._waits.pop(wait, None)

    def _run(self) -> None:
        while True:
            self._wake.clear()
            self._is_asleep = True
            if not self._waits:  # A wait may have begun before `_is_asleep` was set, and then woke nothing.
                self._wake.wait()
            self._is_asleep = False
            time.sleep(_POLL_SECONDS)
            for wait in list(self._waits):
                if not wait.is_shown and time.monotonic() - wait.since > PATIENCE_SECONDS:
                    wait.is_shown = True
                    wait.notify(wait.text)


def _reset_after_fork() -> None:
    global _watch
    _watch = _Watch()  # The thread and the waits are the parent's.


_notify: Notify | None = None
_guard: Guard = nullcontext
_watch = _Watch()
os.register_at_fork(after_in_child=_reset_after_fork)
