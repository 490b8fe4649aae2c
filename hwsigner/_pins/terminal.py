"""Ask the user on the terminal device. SDKs capture stderr and stdin, so a prompt there would not be seen."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from types import FrameType
from typing import Any

from hwsigner._pins import PinRequest
from hwsigner.errors import PinError, printable

_TERMINAL = "/dev/tty"
_LOCAL_MODES = 3
_ENDINGS = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)

# The terminal's settings before the open prompt, and whether it was left to others.
_before: list[Any] | None = None
_is_released = False
_lock = threading.Lock()


def ask_pin(request: PinRequest) -> str | None:
    """Return what the user types, unechoed; None if there is no terminal, or it has hung up or was released."""
    try:
        # Not getpass: without a terminal it reads stdin, and release_terminal could not restore its settings.
        with signals_after_cleanup(), open(_TERMINAL, "r+b", buffering=0) as terminal:
            typed = _ask(terminal, f"{request.question}: ")
    except (OSError, termios.error):
        return None
    try:
        return typed.decode(sys.getfilesystemencoding()).removesuffix("\n") if typed else None
    except UnicodeDecodeError:
        # Not chained: the exception would carry what was typed.
        raise PinError(f"the {request.kind} typed for {request.subject} is not UTF-8 text") from None


def has_terminal() -> bool:
    """Return whether `ask_pin` can ask: there is a terminal, and it is this process's to read, not another job's."""
    with suppress(OSError), open(_TERMINAL, "r+b", buffering=0) as terminal:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    return False


def release_terminal() -> None:
    """Leave the terminal to others for good: to the command that `exec` runs, or to the shell as the process ends.

    If another thread has a prompt open, which the end of the process would cut short, echo is switched on again. From
    now on `ask_pin` returns None, as a prompt would take keys that are meant for another program. Pinentries still ask,
    as most have their own window.
    """
    global _is_released
    _is_released = True
    with suppress(OSError), open(_TERMINAL, "r+b", buffering=0) as terminal:
        # In the background, the terminal is another job's, and changing it would stop this one.
        if os.tcgetpgrp(terminal.fileno()) == os.getpgrp():
            _restore(terminal)


class _Ended(BaseException):
    """A signal that ends the process. Its argument is the number."""


def _raise_ended(number: int, _: FrameType | None) -> None:
    raise _Ended(number)


@contextmanager
def signals_after_cleanup() -> Iterator[None]:
    """Let a signal that ends the process do so only once the body has cleaned up, and so restored the terminal.

    These are SIGHUP, SIGQUIT and SIGTERM, in the main thread. A signal that has a handler or is ignored is left alone.
    """
    is_main = threading.current_thread() is threading.main_thread()
    taken = [number for number in _ENDINGS if is_main and signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, _raise_ended)
        yield
    except _Ended as ended:
        signal.signal(ended.args[0], signal.SIG_DFL)
        signal.raise_signal(ended.args[0])
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _ask(terminal: FileIO, question: str) -> bytes:
    try:
        if not _silence(terminal):
            return b""
        terminal.write(printable(question).encode())
        typed = terminal.readline()
    except KeyboardInterrupt:
        with suppress(OSError):
            terminal.write(b"\n")  # What comes next has a line of its own.
        raise
    finally:
        _restore(terminal)
    terminal.write(b"\n")  # The typed one is not shown.
    return typed


def _silence(terminal: FileIO) -> bool:
    """Switch echo off and return True; return False if the terminal was released."""
    global _before
    with _lock:
        if _is_released:
            return False
        _before = termios.tcgetattr(terminal)
        silent = _before.copy()
        silent[_LOCAL_MODES] &= ~termios.ECHO
        _set(terminal, silent)
        return True


def _restore(terminal: FileIO) -> None:
    global _before
    with _lock, suppress(termios.error):  # It may have hung up.
        if _before is not None:
            _set(terminal, _before)
        _before = None


def _set(terminal: FileIO, attributes: list[Any]) -> None:
    """Set a terminal's attributes and drop earlier input, without waiting for its output, which ^S may hold up."""
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    termios.tcflush(terminal, termios.TCIFLUSH)
