"""Ask a person on the terminal device: SDKs capture stderr and own stdin, so a prompt there is never seen."""

from __future__ import annotations

from hwsigner.errors import printable
from hwsigner.pin import PinRequest

_TERMINAL = "/dev/tty"


def ask_pin(request: PinRequest) -> str | None:
    """Return what a person types, unechoed, or None when there is no terminal."""
    try:
        open(_TERMINAL, "r+b", buffering=0).close()
    except OSError:
        return None
    import getpass

    state = f" ({request.state})" if request.state else ""
    return getpass.getpass(printable(f"{request.kind} for {request.subject}{state}: "))
