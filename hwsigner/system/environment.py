"""Environment variables: the home folder, and those with a secret, which are read once and then gone."""

from __future__ import annotations

import os
from collections.abc import Mapping


def home_folder(environ: Mapping[str, str]) -> str:
    """Return this user's home folder, by HOME or else the account's; `/` if there is none, or it is relative.

    The current folder may be a checkout of someone else's files, so no setting is read from there.
    """
    home = environ.get("HOME") or os.path.expanduser("~")
    return home if os.path.isabs(home) else "/"


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
