"""Environment variables with a secret: read once, and gone from this process's environment then."""

from __future__ import annotations

import os


def take_variable(name: str) -> str | None:
    """Return a variable's value, or None if it is not set, and remove it: no child inherits it.

    Its bytes in the process's environment block are overwritten, so /proc/PID/environ no longer shows them.
    """
    value = os.environ.get(name)
    if value is not None:
        _overwrite(name)
        os.environ.pop(name, None)
    return value


def _overwrite(name: str) -> None:
    """Overwrite a variable's value in the environment block. Unsetting it would leave the bytes there."""
    import ctypes

    prefix = os.fsencode(name) + b"="
    block = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    index = 0
    while address := block[index]:
        entry = ctypes.string_at(address)
        if entry.startswith(prefix):
            ctypes.memset(address + len(prefix), 0, len(entry) - len(prefix))
        index += 1
