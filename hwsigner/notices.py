"""Telling a person that a token waits for them: to be touched, or for a PIN at its own keypad.

The library by itself tells nobody: a program calls `tell_by` first. The commands do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

Tell = Callable[[str], None]

# What takes no longer is nobody's to wait for.
PATIENCE_SECONDS = 0.5
_LOOK_SECONDS = 0.1
_IDLE_LOOKS = 20
_NOTHING = nullcontext()


def tell_by(tell: Tell | None) -> None:
    """Let notices be told by a callable from now on, or by none. It takes one line, is called
    by any thread, and raises nothing.
    """
    global _tell
    _tell = tell


def tell(text: str) -> None:
    """Tell a person something at once."""
    if _tell is not None:
        _tell(text)


def waiting(text: str) -> AbstractContextManager[object]:
    """Tell a person something once the body of the `with` statement has taken more than half a second."""
    return _NOTHING if _tell is None else _Wait(text, _tell)


class _Wait:
    def __init__(self, text: str, tell: Tell) -> None:
        self.text = text
        self.tell = tell
        self.since = time.monotonic()

    def __enter__(self) -> None:
        _watch.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _watch.end(self)


class _Watch:
    """The thread that looks after what is waited for. It starts with the first wait, and sleeps while there is none.

    It looks ten times a second rather than being woken by each signature, most of which are over at once.
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
        idle = 0
        while True:
            if idle >= _IDLE_LOOKS:
                self._sleep()
                idle = 0
            time.sleep(_LOOK_SECONDS)
            waits = list(self._waits)
            idle = 0 if waits else idle + 1
            for wait in waits:
                if time.monotonic() - wait.since > PATIENCE_SECONDS:
                    self._waits.pop(wait, None)
                    wait.tell(wait.text)

    def _sleep(self) -> None:
        self._wake.clear()
        self._is_asleep = True
        if not self._waits:  # One may have begun before it could see that it has to wake this thread.
            self._wake.wait()
        self._is_asleep = False


def _reset_after_fork() -> None:
    global _watch
    _watch = _Watch()  # The thread is the parent's, and so are the waits.


_tell: Tell | None = None
_watch = _Watch()
os.register_at_fork(after_in_child=_reset_after_fork)
