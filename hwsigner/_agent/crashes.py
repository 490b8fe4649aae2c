"""What an agent leaves for the next one: which profile's key a library was using when the agent ended."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain

from hwsigner._system.clocks import boot_time
from hwsigner._system.environment import is_private, is_usable, runtime_folders, state_folders, temporary_folders

# Seconds that a profile is left out after the first crash, by how much more after each further one, and at most. The
# first pause is short, since an agent that was killed leaves a mark too.
FIRST_PAUSE, GROWTH, LONGEST_PAUSE = 5.0, 4.0, 600.0
_MOST = 99
# How long a key that was in use at a crash waits for another such key. A library may hang.
ALONE_LIMIT = 10.0
_alone = threading.RLock()


class UseMark:
    """A file that is there while a library uses a profile's key. An agent that finds it follows one that ended then.

    Of several keys that were in use then, one may be at fault. They are used one at a time until each has given a
    session. So the next crash is blamed on one key only. Set `crashes`, how many agents in a row ended so, to 0 once
    the key was used without that. `until` is when the profile may be used again, in time of `boot_time()`.
    """

    def __init__(self, profile: str) -> None:
        self._name = f"{profile.replace('/', '%')}.used"  # It must stay in the folder.
        self.crashes, self.until = 0, 0.0
        for path in self._paths():
            with suppress(OSError, ValueError), open(path, "rb") as file:
                crashes, began = file.read(64).split()
                if float(began) <= boot_time():  # Otherwise the machine was started since, and may have lost its power.
                    self.crashes = min(int(crashes), _MOST)
                    self.until = float(began) + min(FIRST_PAUSE * GROWTH ** (self.crashes - 1), LONGEST_PAUSE)

    @property
    def left(self) -> float:
        """The seconds that the profile is still left out; 0 or less for none."""
        return self.until - boot_time()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep the file there during the body of the `with` statement, if a folder can have it."""
        with _turn() if self.crashes else nullcontext():
            self._make()
            try:
                yield
            finally:
                self.remove()

    def _make(self) -> None:
        with suppress(OSError, ValueError, StopIteration):
            path = os.path.join(next(filter(is_usable, _folders())), self._name)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, b"%d %f" % (self.crashes + 1, boot_time()))
            finally:
                os.close(file)

    def remove(self) -> None:
        """Remove the file."""
        for path in self._paths():
            with suppress(OSError, ValueError):
                os.unlink(path)

    def _paths(self) -> Iterator[str]:
        return (os.path.join(folder, self._name) for folder in filter(is_private, _folders()))


@contextmanager
def _turn() -> Iterator[None]:
    is_alone = _alone.acquire(timeout=ALONE_LIMIT)
    try:
        yield
    finally:
        if is_alone:
            _alone.release()


def _folders() -> Iterator[str]:
    return chain(runtime_folders(), state_folders("agent"), temporary_folders())
