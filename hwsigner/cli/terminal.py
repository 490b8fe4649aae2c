"""Ask a person on the terminal device: SDKs capture stderr and own stdin, so a prompt there is never seen."""

from __future__ import annotations

from contextlib import suppress

from hwsigner.errors import PinError, printable
from hwsigner.pin import PinRequest

_TERMINAL = "/dev/tty"


def ask_pin(request: PinRequest) -> str | None:
    """Return what a person types, unechoed, or None when there is no terminal or it has hung up.

    Raises:
        PinError: what was typed is not text.
    """
    try:
        open(_TERMINAL, "r+b", buffering=0).close()
    except OSError:
        return None
    import getpass

    try:
        return getpass.getpass(printable(f"{request.question}: "))
    except EOFError:
        return None
    except UnicodeDecodeError:
        # Not chained: the exception would carry what was typed.
        raise PinError(f"the {request.kind} typed for {request.subject} is not UTF-8 text") from None


def tell_person(text: str) -> None:
    """Write a line to the terminal device. Where there is none, nobody is told."""
    with suppress(OSError), open(_TERMINAL, "wb", buffering=0) as terminal:
        terminal.write(f"hwsigner: {printable(text)}\n".encode())
