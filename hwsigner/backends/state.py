"""The folders through which one process's use of a token or TPM reaches the next: each is this user's alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

_TEMPORARY = "/tmp"  # noqa: S108  # The folder in it is looked over before it is used.


def state_folders(name: str) -> Iterator[str]:
    """Yield the folders for what outlives a login, the best first: of this user or of systemd's service."""
    service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    places = (os.environ.get("XDG_STATE_HOME", ""), service, _home_state())
    place = next(filter(os.path.isabs, places), None)
    if place:
        yield os.path.join(place, "hwsigner", name)


def runtime_folders() -> Iterator[str]:
    """Yield the folder for what a login outlives, where there is one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        yield os.path.join(runtime, "hwsigner")


def temporary_folders() -> Iterator[str]:
    """Yield the folder of last resort."""
    yield os.path.join(_TEMPORARY, f"hwsigner-{os.getuid()}")


def is_private(folder: str) -> bool:
    """Return whether a folder is there and only this user can look into it or change it."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def is_usable(folder: str) -> bool:
    """Make a folder if need be; return whether it is this user's alone, and can be written to."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError:
        return False
    return is_private(folder) and os.access(folder, os.W_OK | os.X_OK)


def _home_state() -> str:
    """Return the state folder of the home folder; an empty string where that is none of a person."""
    home = os.environ.get("HOME") or _home_of_account()
    return os.path.join(home, ".local", "state") if home.strip("/") else ""


def _home_of_account() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""
