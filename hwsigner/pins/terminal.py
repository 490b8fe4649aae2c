"""Ask a person on the terminal device: SDKs capture stderr and own stdin, so a prompt there is never seen."""

from __future__ import annotations

import os
import sys
import termios
import threading
from contextlib import suppress
from io import FileIO
from typing import Any

from hwsigner.errors import PinError, printable
from hwsigner.pins import PinRequest

_TERMINAL = "/dev/tty"
_LOCAL_MODES = 3

# How the terminal was before the prompt that is open, and whether others have it now.
_before: list[Any] | None = None
_is_released = False
_lock = threading.Lock()


def ask_pin(request: PinRequest) -> str | None:
    """Return what a person types, unechoed; None when there is no terminal, or it has hung up or been released.

    Raises:
        PinError: what was typed is not text.
    """
    try:
        # Not getpass: where it can't silence the terminal it takes what stdin holds, and only it knows what to restore.
        with open(_TERMINAL, "r+b", buffering=0) as terminal:
            typed = _ask(terminal, f"{request.question}: ")
    except (OSError, termios.error):
        return None
    try:
        return typed.decode(sys.getfilesystemencoding()).removesuffix("\n") if typed else None
    except UnicodeDecodeError:
        # Not chained: the exception would carry what was typed.
        raise PinError(f"the {request.kind} typed for {request.subject} is not UTF-8 text") from None


def release_terminal() -> None:
    """Leave the terminal to others for good: to the command that `exec` runs, or to the shell as the process ends.

    If a prompt is open in another thread, which the end of the process would cut short, typing is echoed again. From
    now on `ask_pin` returns None: a prompt would take keys that are meant for another program. Pinentries are asked
    still, as most have a window of their own.
    """
    global _is_released
    _is_released = True
    with suppress(OSError), open(_TERMINAL, "r+b", buffering=0) as terminal:
        # From the background it would be another job's, and touching it would stop this one.
        if os.tcgetpgrp(terminal.fileno()) == os.getpgrp():
            _restore(terminal)


def _ask(terminal: FileIO, question: str) -> bytes:
    try:
        if not _silence(terminal):
            return b""
        terminal.write(printable(question).encode())
        typed = terminal.readline()
    finally:
        _restore(terminal)
    terminal.write(b"\n")  # The one that was typed is not shown.
    return typed


def _silence(terminal: FileIO) -> bool:
    """Let what is typed not be shown, and return True; or return False where the terminal has been released."""
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
    """Set a terminal's attributes, and drop what was typed before; without a wait for what is shown, as for ^S."""
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    termios.tcflush(terminal, termios.TCIFLUSH)
