"""The profiles that an agent holds: those of config.toml, read anew when it changes."""

from __future__ import annotations

import os
from concurrent.futures import Future

from hwsigner.agent.profile import HeldProfile, Surroundings
from hwsigner.config import profiles as config
from hwsigner.config.profiles import Profile
from hwsigner.errors import ConfigError

# What changes when a file does.
_FileState = tuple[int, int, int] | None


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
        self._held: dict[str, HeldProfile] = {}
        self._closing: list[Future[None]] = []
        self._files = [str(config.user_file(around.environ)), str(config.SYSTEM_FILE)]
        self._seen = self._look()
        self._read()

    def __len__(self) -> int:
        return len(self._held)

    def all(self) -> list[HeldProfile]:
        """Return the profiles, as the files are now."""
        self._see()
        return sorted(self._held.values(), key=lambda held: held.profile.name)

    def find(self, name: str) -> HeldProfile | None:
        """Return a profile, as the files are now."""
        self._see()
        return self._held.get(name)

    def reload(self) -> None:
        """Read the files. Profiles that stand there as before are left alone; the others forget all.

        Where a file can't be used, that is logged and nothing changes; a profile that can't be used is held.
        """
        self._seen = self._look()
        try:
            self._read()
        except ConfigError as error:
            self._around.log(f"the profiles stay as they were: {error}")

    def close(self) -> list[Future[None]]:
        """Close all profiles; return what is done when they are closed, and those that left the files before."""
        for name in list(self._held):
            self._close(name)
        return self._closing

    def _close(self, name: str) -> None:
        self._closing = [closing for closing in self._closing if not closing.done()]
        self._closing.append(self._held.pop(name).close())

    def _read(self) -> None:
        found = self._profiles()
        for name, held in list(self._held.items()):
            if found.get(name) != held.profile:
                self._close(name)
        for name, profile in found.items():
            if name not in self._held:
                self._held[name] = HeldProfile(profile, self._around)

    def _profiles(self) -> dict[str, Profile]:
        """Return the profiles of the files, less what a user's agent leaves to the system's."""
        found = config.profiles(self._around.environ)
        return {name: profile for name, profile in found.items() if self._is_systems or not _is_systems(profile)}

    def _see(self) -> None:
        if self._look() != self._seen:
            self.reload()

    def _look(self) -> list[_FileState]:
        return [_file_state(file) for file in self._files]


def _is_systems(profile: Profile) -> bool:
    return profile.file == config.SYSTEM_FILE and bool(profile.values.get("allow-users"))


def _file_state(path: str) -> _FileState:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
