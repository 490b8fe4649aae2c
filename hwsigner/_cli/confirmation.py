"""The question on the terminal before something is changed."""

from __future__ import annotations

import os
import termios
from collections.abc import Sequence
from contextlib import suppress

from hwsigner.errors import HwsignerError, UsageError, printable


def has_terminal() -> bool:
    """Return whether there is a terminal to ask on."""
    with suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    return False


def confirm(lines: Sequence[str], question: str, *, nothing: str) -> None:
    """Show lines on the terminal device, with control characters escaped, and a question. Return if the user types yes.

    Otherwise the error says what was not done: `nothing`, such as "nothing was deleted".
    """
    shown = "".join(f"{printable(line)}\n" for line in lines)
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            termios.tcflush(terminal, termios.TCIFLUSH)  # What was typed before the question does not answer it.
            answer = b""
            try:
                terminal.write(f"{shown}{question}: ".encode())
                answer = terminal.readline()
            finally:
                if not answer.endswith(b"\n"):  # Ctrl-C or Ctrl-D: what comes next has a line of its own.
                    terminal.write(b"\n")
    except (OSError, termios.error) as error:
        problem = f"there is no terminal to ask, so {nothing}"
        raise UsageError(problem, "Add --yes to do it without a question") from error
    if answer.strip().lower() != b"yes":
        raise HwsignerError(nothing, question)
