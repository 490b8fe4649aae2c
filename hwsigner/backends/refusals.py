"""What one process leaves for the next: for which tokens and TPM keys a PIN was refused, which was right, and notes.

Each refusal is a file in a folder that only this user can use, named after the token or key. So is each note. Nothing
of the PIN is kept.
"""

from __future__ import annotations

import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from hwsigner._system.environment import is_private, is_usable, runtime_folders, state_folders, temporary_folders
from hwsigner._system.files import lock_within
from hwsigner.errors import BackendUnavailableError, UnsafeKeyWarning

_MAX_NOTE = 8192
# The longest time that another process's login may take.
_LOGIN_SECONDS = 30.0


class KeptRefusal:
    """A PIN was refused."""

    def __init__(self, time: float, failures: int) -> None:
        self.time: Final = time  # In the time of `time.time()`.
        self.failures: Final = failures  # Wrong auth values that the TPM counted then; 0 for a token, or if unknown.


# Refusals that no folder can keep: at least this process knows them.
_unplaced: dict[str, KeptRefusal] = {}


def has_place() -> bool:
    """Return whether some folder can keep refusals for the next process."""
    return any(map(is_usable, _folders()))


def warn_without_place(subject: str) -> None:
    """Warn that no folder can keep a refusal of a stored auth value, so that only the TPM's counter holds it back."""
    if not has_place():
        problem = f"no folder can keep whether the stored PIN of {subject} is wrong"
        text = f"{problem}, so it is not sent while the TPM counts a wrong one for any key"
        warnings.warn(UnsafeKeyWarning(text, "Set XDG_STATE_HOME, or StateDirectory= in the unit"), stacklevel=2)


def keep(name: str, failures: int = 0) -> None:
    """Keep a refusal; if no folder can keep it, in this process alone.

    The name is that of a token or key, valid as a file name. `failures` is how many wrong auth values the TPM counts
    now.
    """
    if not _write(name, b"%d" % failures if failures else b""):
        _unplaced[name] = KeptRefusal(time.time(), failures)


def note(name: str, text: str) -> bool:
    """Keep a text for the next process. `forget` removes it. Return whether some folder could keep it."""
    return _write(name, os.fsencode(text))


def noted(name: str) -> str:
    """Return the text that is kept, or an empty string."""
    for path in _paths(name):
        with suppress(OSError), open(path, "rb") as file:
            return os.fsdecode(file.read(_MAX_NOTE))
    return ""


def kept(name: str) -> Iterator[KeptRefusal]:
    """Yield the refusals that are kept for a token or key."""
    for path in _paths(name):
        with suppress(OSError):
            yield KeptRefusal(os.lstat(path).st_mtime, _failures_in(path))
    if name in _unplaced:
        yield _unplaced[name]


def is_kept(name: str, since: float = 0.0) -> bool:
    """Return whether a refusal is kept that is not older than a time of `time.time()`."""
    return any(refusal.time >= since for refusal in kept(name))


def forget(*names: str, more_than: int = -1) -> None:
    """Remove what is kept for tokens or keys.

    Refusals at which the TPM counted `more_than` wrong auth values or fewer stay.
    """
    for path in _paths(*names):
        with suppress(OSError):
            if more_than < 0 or _failures_in(path) > more_than:
                os.unlink(path)
    for name in _unplaced.keys() & names:
        if _unplaced[name].failures > more_than:
            del _unplaced[name]


@contextmanager
def one_process(name: str) -> Iterator[None]:
    """Keep this user's other processes from logging in to a token, from looking for its refusals to keeping one.

    Other tokens are not affected. If another process is logging in for too long, that is a BackendUnavailableError.
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
                        "Stop that process, then retry",
                    )
        yield


def _write(name: str, data: bytes) -> bool:
    """Write a file; return whether some folder could keep it."""
    for folder in filter(is_usable, _folders()):
        with suppress(OSError):
            file = _open(folder, name)
            try:
                os.ftruncate(file, 0)
                os.write(file, data)
                now = time.time_ns()  # The file system's own time is a little behind.
                os.utime(file, ns=(now, now))
            finally:
                os.close(file)
            return True
    return False


def _failures_in(path: str) -> int:
    with suppress(OSError), open(path, "rb") as file:
        data = file.read(20)
        return int(data) if data.isdigit() else 0
    return 0


def _open(folder: str, name: str) -> int:
    return os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _paths(*names: str) -> Iterator[str]:
    for folder in filter(is_private, _folders()):
        for name in names:
            yield os.path.join(folder, name)


def _folders() -> Iterator[str]:
    yield from state_folders("refused-pins")
    yield from runtime_folders()
    yield from temporary_folders()  # One that another user has created there is not private, so it is not used.
