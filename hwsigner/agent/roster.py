"""The profiles that an agent serves: those of config.toml, read anew when it changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future

from hwsigner import config
from hwsigner.agent.served import Served, Surroundings
from hwsigner.errors import ConfigError

_Stamp = tuple[int, int, int] | None


class Roster:
    """The profiles by name. For one thread.

    Args:
        around: what the profiles share.
        is_systems: whether this is the system's agent: it alone serves those of the system's file with allow-users.

    Raises:
        ConfigError: config.toml can't be used.
    """

    def __init__(self, around: Surroundings, *, is_systems: bool) -> None:
        self._around = around
        self._is_systems = is_systems
        self._served: dict[str, Served] = {}
        self._files = [str(config.user_file(around.environ)), str(config.SYSTEM_FILE)]
        self._stamps = self._look()
        self._read()

    def __iter__(self) -> Iterator[Served]:
        return iter(sorted(self._served.values(), key=lambda served: served.profile.name))

    def __len__(self) -> int:
        return len(self._served)

    def find(self, name: str) -> Served | None:
        """Return a profile, as the files are now."""
        if self._look() != self._stamps:
            self.reload()
        return self._served.get(name)

    def reload(self) -> None:
        """Read the files. Profiles that stand there as before are left alone; the others forget all.

        Where a file can't be used, that is logged and nothing changes.
        """
        self._stamps = self._look()
        try:
            self._read()
        except ConfigError as error:
            self._around.log(f"the profiles stay as they were: {error}")

    def close(self) -> list[Future[None]]:
        """Close all profiles; return what is done when they are closed."""
        closed = [served.close() for served in self._served.values()]
        self._served = {}
        return closed

    def _read(self) -> None:
        found = {
            name: profile
            for name, profile in config.profiles(self._around.environ).items()
            if self._is_systems or profile.file != config.SYSTEM_FILE or not profile.values.get("allow-users")
        }
        for name, served in list(self._served.items()):
            if found.get(name) != served.profile:
                self._served.pop(name).close()
        for name, profile in found.items():
            if name not in self._served:
                self._served[name] = Served(profile, self._around)

    def _look(self) -> list[_Stamp]:
        """Return what changes when a file does."""
        return [_stamp(file) for file in self._files]


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
