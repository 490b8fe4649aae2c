"""What commands show on the terminal while a key is used: notices, and none of what native libraries print.

A notice says that a token waits for the user: for a touch, or for a PIN typed on its keypad. The library shows none by
itself. A program that wants them calls `set_notifier`, as the commands do. One that works for others, as the agent
does, learns with `observed_by` what each piece of work waits for.

File descriptor 2 belongs to the whole process, so nothing printed there is hidden until a program calls `silence`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from hwsigner.errors import printable

Notify = Callable[[str], None]
Observer = Callable[[str | None], None]
Guard = Callable[[], AbstractContextManager[object]]

# A shorter wait is not worth a notice.
PATIENCE_SECONDS = 0.5
_POLL_SECONDS = 0.1
_NOTHING = nullcontext()
_TERMINAL = "/dev/tty"
_OSASCRIPT = "/usr/bin/osascript"
# The texts are arguments, so nothing in them is a part of the script.
_NOTIFICATION = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")
_STDERR = 2


def set_notifier(notify: Notify | None, guard: Guard = nullcontext) -> None:
    """Choose the callable that shows notices, a line each. It may be called from any thread and must not raise.

    `guard` returns a context manager that is open during each wait, in the waiting thread.
    """
    global _notify, _guard
    _notify, _guard = notify, guard


def show_on_terminal(text: str) -> None:
    """Write a line to the terminal device, as SDKs capture stderr. Do nothing if there is none, or it takes no more."""
    with suppress(OSError):
        terminal = os.open(_TERMINAL, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            os.write(terminal, f"hwsigner: {printable(text)}\n".encode())
        finally:
            os.close(terminal)


def desktop_command(title: str, text: str) -> list[str]:
    """Return the command that shows a notification on macOS; empty on a system where desktops are asked by D-Bus.

    The title may not begin with a hyphen.
    """
    if sys.platform != "darwin":
        return []
    script = [word for line in _NOTIFICATION for word in ("-e", line)]
    return [_OSASCRIPT, *script, printable(title), printable(text)]


def show_unless_notified(text: str | None) -> None:
    """Show a notice on the terminal, unless the program has a notifier, which shows it. For `observed_by`."""
    if text and _notify is None:
        show_on_terminal(text)


def notify(text: str) -> None:
    """Show the user a notice at once."""
    observer = _observer()
    if _notify is not None:
        _notify(text)
    if observer is not None:
        observer(text)


@contextmanager
def observed_by(observer: Observer | None) -> Iterator[None]:
    """Also report the notices of this thread to a callable, and None when the wait is over.

    It may be called from any thread, and must neither raise nor wait.
    """
    before = _observer()
    _thread.observer = observer or before
    try:
        yield
    finally:
        _thread.observer = before


def waiting(text: str, *, at_once: bool = False) -> AbstractContextManager[object]:
    """Show the user a notice if the body of the `with` statement takes more than half a second.

    If `at_once`, show it before that, as the body will certainly wait for the user.
    """
    is_unseen = _notify is None and _observer() is None
    return _NOTHING if is_unseen else _Wait(text, at_once=at_once)


def _observer() -> Observer | None:
    return getattr(_thread, "observer", None)


class _Wait:
    def __init__(self, text: str, *, at_once: bool) -> None:
        self.text = text
        self.notify = _notify
        self.observer = _observer()
        self.since = time.monotonic()
        self.is_shown = False
        self._guard = _guard()
        self._at_once = at_once
        self._is_over = False
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._guard.__enter__()
        if self._at_once:
            self.show()
        _watch.begin(self)

    def __exit__(self, *error: Any) -> None:
        _watch.end(self)
        if self.observer:
            with self._lock:  # The watch may be showing it: the None comes last.
                self._is_over = True
                if self.is_shown:
                    self.observer(None)
        self._guard.__exit__(*error)

    def show(self) -> None:
        """Show the notice, once."""
        if self.notify:
            self.notify(self.text)
        with self._lock:
            self.is_shown = True
            if self.observer and not self._is_over:
                self.observer(self.text)


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
                    wait.show()


def silence(*, on: bool = True) -> None:
    """Let `quiet` work in this process, or no longer."""
    global _is_silenced
    _is_silenced = on


def quiet() -> AbstractContextManager[None]:
    """Discard what any thread writes to file descriptor 2 inside the `with` statement, if `silence` was called.

    If several threads are inside, the last one to leave restores the descriptor.
    """
    return _quiet() if _is_silenced else _NOTHING


@contextmanager
def _quiet() -> Iterator[None]:
    global _depth, _saved
    with _lock:
        _depth += 1
        if _depth == 1:
            _saved = _redirect()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _restore()


def _redirect() -> int | None:
    """Send file descriptor 2 to /dev/null and return a copy of it, or None if it is closed."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.flush()
    try:
        saved = os.dup(_STDERR)
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        return None
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)
    return saved


def _restore() -> None:
    global _saved
    if _saved is not None:
        os.dup2(_saved, _STDERR)
        os.close(_saved)
        _saved = None


def _reset_after_fork() -> None:
    """Leave the parent its watch and its waits, and restore a child's stderr: its threads are the parent's too."""
    global _watch, _lock, _depth
    _watch = _Watch()
    _lock, _depth = threading.Lock(), 0
    _restore()


_notify: Notify | None = None
_guard: Guard = nullcontext
_thread = threading.local()
_watch = _Watch()
_lock = threading.Lock()
_is_silenced = False
_saved: int | None = None
_depth = 0
os.register_at_fork(after_in_child=_reset_after_fork)
