"""Asking the user before something is gone for good."""

from __future__ import annotations

import termios
from collections.abc import Sequence

from hwsigner.errors import HwsignerError, UsageError, printable


def confirm(verb: str, title: str, lines: Sequence[str], *, subject: str = "") -> None:
    """Show what would happen on the terminal, and return if the user types yes.

    Args:
        verb: what would be done, such as `delete`; its past ends with `d`.
        title: the line above the others.
        lines: what would happen, or what is concerned, a line each.
        subject: what is concerned, for errors; by default the lines.

    Raises:
        UsageError: there is no terminal.
        HwsignerError: the user typed something else.
    """
    shown = "".join(f"  {printable(line)}\n" for line in lines)
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            termios.tcflush(terminal, termios.TCIFLUSH)  # What was typed before the question does not answer it.
            terminal.write(f"{printable(title)}\n{shown}Type yes to {verb} it: ".encode())
            answer = terminal.readline()
    except (OSError, termios.error) as error:
        problem = f"there is no terminal to ask whether to {verb} {subject or ', '.join(lines)}"
        raise UsageError(problem, f"Add --yes to {verb} it without a question") from error
    if answer.strip().lower() != b"yes":
        raise HwsignerError(f"nothing was {verb}d", f"Type yes to {verb} it")
