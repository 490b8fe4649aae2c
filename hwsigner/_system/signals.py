"""Signals that this process waits for, and who sent them."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from typing import NamedTuple

_FROM_KERNEL = 0x80
_TERMINAL = "/dev/tty"


class ReceivedSignal(NamedTuple):
    """A signal, and whether the kernel sent it, as it does for a terminal's Ctrl-C."""

    number: int
    is_from_kernel: bool


def wait_for_signal(numbers: Set[signal.Signals], seconds: float) -> ReceivedSignal | None:
    """Return a signal that this process received. This thread, the main one, blocks them otherwise.

    macOS does not tell: the handlers of the signals run instead, so each must have one, and the result is None.
    """
    if sys.platform != "darwin":
        found = signal.sigtimedwait(numbers, seconds)
        return ReceivedSignal(found.si_signo, found.si_code == _FROM_KERNEL) if found else None
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        with signals_wake(writer):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
            select.select([reader], [], [], seconds)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        os.close(reader)
        os.close(writer)
    return None


@contextmanager
def signals_wake(writer: int) -> Iterator[None]:
    """Let each signal write a byte to a pipe that the main thread waits for, inside the `with` statement.

    Python runs a signal's handler between two instructions of the main thread. Without the byte, a signal that comes
    just before that thread begins to wait, or that the kernel gives to another thread, is handled after the wait. The
    pipe's writing end must not block.
    """
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


def is_typed(number: int) -> bool:
    r"""Return whether a handler's signal seems to be Ctrl-C or Ctrl-\, which a terminal sends to its foreground group.

    On Linux, `wait_for_signal` tells for sure, and a handler seldom runs: there it is False, so that none is lost.
    """
    if sys.platform == "darwin" and number in (signal.SIGINT, signal.SIGQUIT):
        with suppress(OSError):
            terminal = os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY)
            try:
                return os.tcgetpgrp(terminal) == os.getpgrp()
            finally:
                os.close(terminal)
    return False
