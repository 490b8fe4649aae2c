"""What one process tells the next: for which tokens a stored PIN was refused.

Each refusal is an empty file in a folder of this user's, named after the token: nothing of a PIN is kept.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from hwsigner.backends.state import is_private, is_usable, runtime_folders, state_folders, temporary_folders
from hwsigner.errors import BackendUnavailableError
from hwsigner.system.files import lock_within

# What another process's login takes at most.
_LOGIN_SECONDS = 30.0
# Those for which there is no folder, by the time: at least this process knows them.
_unplaced: dict[str, float] = {}


def keep(name: str) -> None:
    """Keep it that a token refused a stored PIN; where there is no folder for it, in this process alone.

    Args:
        name: the token's, fit for a file's name.
    """
    for folder in filter(is_usable, _folders()):
        with suppress(OSError):
            _touch(_open(folder, name))
            return
    _unplaced[name] = time.time()


def is_kept(name: str, since: float = 0.0) -> bool:
    """Return whether a refusal is kept of a token, no older than a time of `time.time()`."""
    for path in (os.path.join(folder, name) for folder in _private()):
        with suppress(OSError):
            if os.lstat(path).st_mtime >= since:
                return True
    return name in _unplaced and _unplaced[name] >= since


def forget(name: str) -> None:
    """Keep nothing of a token to which somebody has logged in."""
    _unplaced.pop(name, None)
    for folder in _private():
        with suppress(OSError):
            os.unlink(os.path.join(folder, name))


@contextmanager
def one_process(name: str) -> Iterator[None]:
    """Let no other process of this user's be here for a token: from a look at what is kept to keeping it, none tries.

    Args:
        name: the token's. Others are not held up: a slow one may take long to answer.

    Raises:
        BackendUnavailableError: another process was here for too long.
    """
    with ExitStack() as held:
        folder = next(filter(is_usable, _folders()), None)
        if folder is not None:
            with suppress(OSError):
                file = _open(folder, f"{name}.lock")
                held.callback(os.close, file)
                held.callback(fcntl.flock, file, fcntl.LOCK_UN)  # A child may have inherited the file.
                if not lock_within(file, _LOGIN_SECONDS):
                    raise BackendUnavailableError(
                        f"another process of this user has been logging in to the token for {_LOGIN_SECONDS:g} seconds",
                        "End the one that hangs",
                    )
        yield


def _touch(file: int) -> None:
    now = time.time_ns()  # The file system's own time lags a little behind.
    try:
        os.utime(file, ns=(now, now))
    finally:
        os.close(file)


def _open(folder: str, name: str) -> int:
    return os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _private() -> Iterator[str]:
    return filter(is_private, _folders())


def _folders() -> Iterator[str]:
    yield from state_folders("refused-pins")
    yield from runtime_folders()
    yield from temporary_folders()
