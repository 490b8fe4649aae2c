"""What the environment gives this user: the home folder, folders for files that outlast a process, and secrets."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain

_TEMPORARY = "/tmp"  # noqa: S108  # The folder in it is checked before it is used.


def home_folder(environ: Mapping[str, str]) -> str:
    """Return this user's home folder, by HOME or else the account's; `/` if there is none, or it is relative.

    The current folder may be a checkout of someone else's files, so no setting is read from there.
    """
    home = environ.get("HOME") or os.path.expanduser("~")
    return home if os.path.isabs(home) else "/"


def config_folders(environ: Mapping[str, str]) -> list[str]:
    """Return the folders that may have this user's settings without XDG_CONFIG_HOME. New ones are in the first."""
    home = home_folder(environ)
    usual = os.path.join(home, ".config")
    if sys.platform == "darwin":
        return [usual, os.path.join(home, "Library", "Application Support")]
    return [usual]


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
    block_type = ctypes.POINTER(ctypes.c_void_p)
    if sys.platform == "darwin":  # A library has no other way to it: environ(7).
        find = ctypes.CDLL(None)._NSGetEnviron
        find.restype = ctypes.POINTER(block_type)
        block = find().contents
    else:
        block = block_type.in_dll(ctypes.CDLL(None), "environ")
    index = 0
    while address := block[index]:
        entry = ctypes.string_at(address)
        if entry.startswith(prefix):
            ctypes.memset(address + len(prefix), 0, len(entry) - len(prefix))
        index += 1


def state_folders(name: str) -> Iterator[str]:
    """Yield the folder for what outlasts a login, if there is one: this user's, or that of the systemd service."""
    service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    place = next(filter(os.path.isabs, (os.environ.get("XDG_STATE_HOME", ""), service)), "") or _home_state()
    if os.path.isabs(place):
        yield os.path.join(place, "hwsigner", name)


def runtime_folders() -> Iterator[str]:
    """Yield the folder for what ends with the login, if there is one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        yield os.path.join(runtime, "hwsigner")
    else:
        from hwsigner._system.users import login_folder

        if os.path.isdir(login := login_folder()):
            yield os.path.join(login, "hwsigner")


def temporary_folders() -> Iterator[str]:
    """Yield the folders of last resort: in /tmp, so that all processes have the same one, else in TMPDIR."""
    for place in dict.fromkeys((_TEMPORARY, os.environ.get("TMPDIR", ""))):
        if os.path.isabs(place):
            yield os.path.join(place, f"hwsigner-{os.getuid()}")


def is_private(folder: str) -> bool:
    """Return whether a folder exists and only this user can read or change it."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def is_usable(folder: str) -> bool:
    """Create a folder if needed; return whether it is private and can be written to."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:
        return False
    return is_private(folder) and os.access(folder, os.W_OK | os.X_OK)


def open_lock_file(kind: str, subject: str) -> int | None:
    """Open a file to lock, in a private folder; None if there is no such folder."""
    name = f"{kind}-{hashlib.sha256(os.fsencode(subject)).hexdigest()[:16]}.lock"
    for folder in filter(is_usable, chain(runtime_folders(), state_folders("locks"), temporary_folders())):
        with suppress(OSError):
            return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    return None


def _home_state() -> str:
    """Return the state folder in the home folder; an empty string if that is `/` or unknown, as for some services."""
    home = os.environ.get("HOME") or _home_of_account()
    return os.path.join(home, ".local", "state") if home.strip("/") else ""


def _home_of_account() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""
