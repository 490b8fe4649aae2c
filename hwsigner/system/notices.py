"""Telling a person that a token waits for them: to be touched, or for a PIN at its own keypad.

The library by itself tells nobody: a program calls `tell_by` first. The commands do.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType

Tell = Callable[[str], None]

# What takes no longer is nobody's to wait for.
PATIENCE_SECONDS = 0.5
_LOOK_SECONDS = 0.1
_IDLE_LOOKS = 20
_NOTHING = nullcontext()


def tell_by(tell: Tell | None, *, interrupted: int | None = None) -> None:
    """Let notices be told by a callable from now on, or by none.

    Args:
        tell: takes one line, is called by any thread, and raises nothing.
        interrupted: the status with which SIGINT ends the process at once while its main thread is waited for.
            Python raises KeyboardInterrupt when the module's code returns, which may be after a person's touch.
    """
    global _tell
    _tell = tell
    _interrupt.status = interrupted


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
        self.is_told = False

    def __enter__(self) -> None:
        if _interrupt.status is not None:
            _interrupt.listen()
        _watch.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _watch.end(self)
        if _interrupt.status is not None:
            _interrupt.stop_listening()


class _Interrupt:
    """Ends the process at a SIGINT that Python can't raise yet: the signal leaves its number in a pipe meanwhile.

    Attributes:
        status: the process's exit status then; None: it is not ended.
    """

    def __init__(self, status: int | None = None) -> None:
        self.status = status
        self._pipe: tuple[int, int] | None = None
        self._former: int | None = None
        self._has_come = False

    def listen(self) -> None:
        """Begin, in the main thread, unless somebody else handles the signal."""
        if self._former is not None or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with suppress(BlockingIOError):  # One that has ended a former wait.
                os.read(self._ends()[0], 64)
            self._has_come = False
            # Last: with it the watch begins to look.
            self._former = signal.set_wakeup_fd(self._ends()[1], warn_on_full_buffer=False)

    def stop_listening(self) -> None:
        """End, if this is the thread that has begun."""
        if self._former is not None and threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._former)
            self._former = None

    def look(self) -> None:
        """End the process if the signal has come, and Python has not raised it until the second look."""
        if self._former is None:
            return
        if self._has_come and self.status is not None:
            os._exit(self.status)
        with suppress(BlockingIOError):
            self._has_come = signal.SIGINT in os.read(self._ends()[0], 64)

    def _ends(self) -> tuple[int, int]:
        if self._pipe is None:
            self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        return self._pipe


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
            _interrupt.look()
            idle = 0 if waits else idle + 1
            for wait in waits:
                if not wait.is_told and time.monotonic() - wait.since > PATIENCE_SECONDS:
                    wait.is_told = True
                    wait.tell(wait.text)

    def _sleep(self) -> None:
        self._wake.clear()
        self._is_asleep = True
        if not self._waits:  # One may have begun before it could see that it has to wake this thread.
            self._wake.wait()
        self._is_asleep = False


def _reset_after_fork() -> None:
    global _watch, _interrupt
    _interrupt.stop_listening()
    _watch, _interrupt = _Watch(), _Interrupt(_interrupt.status)  # The thread is the parent's, and so are the waits.


_tell: Tell | None = None
_interrupt = _Interrupt()
_watch = _Watch()
os.register_at_fork(after_in_child=_reset_after_fork)
