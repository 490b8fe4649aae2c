"""The profiles that an agent serves: those of config.toml, read again when it changes."""

from __future__ import annotations

import os
from concurrent.futures import Future

from hwsigner._agent.profile import AgentProfile, ProfileStatus, Shared
from hwsigner._config import profiles as config
from hwsigner._config.settings import is_inherited
from hwsigner.errors import ConfigError

_FileState = tuple[int, int, int] | None


class Profiles:
    """The profiles by name. Used by one thread only. Raises a ConfigError if config.toml can't be used.

    Only the system's agent serves the profiles of the system's file that have allow-users. None serves a profile whose
    key or certificate is in an environment variable, which another process has.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._profiles: dict[str, AgentProfile] = {}
        self._closing: list[Future[None]] = []
        self._files = [config.user_file(shared.environ), config.SYSTEM_FILE]
        self._seen = self._look()
        self._read()

    def __len__(self) -> int:
        return len(self._profiles)

    def all(self) -> list[AgentProfile]:
        """Return the profiles, as the files are now."""
        self._reload_if_changed()
        return sorted(self._profiles.values(), key=lambda profile: profile.name)

    def statuses(self) -> list[ProfileStatus]:
        """Return how the profiles are that the agent serves now. For any thread."""
        return [profile.status() for profile in list(self._profiles.values())]

    def find(self, name: str) -> AgentProfile | None:
        """Return a profile, as the files are now."""
        self._reload_if_changed()
        return self._profiles.get(name)

    def reload(self) -> None:
        """Read the files. A profile that has not changed is left alone, the others are closed.

        If a file can't be used, that is logged and nothing changes. A profile that can't be used is kept.
        """
        self._seen = self._look()
        try:
            self._read()
        except ConfigError as error:
            self._shared.log(f"error: the profiles stay as they were: {error}")

    def close(self) -> list[Future[None]]:
        """Close all profiles; return what is done once they, and those that were removed before, are closed."""
        self._closing += [profile.close() for profile in self._profiles.values()]
        self._profiles.clear()
        return self._closing

    def _read(self) -> None:
        found = config.profiles(self._shared.environ)
        found = {name: each for name, each in found.items() if not is_inherited(each.values)}
        if not self._shared.is_system:
            file, key = config.SYSTEM_FILE, "allow-users"
            found = {name: each for name, each in found.items() if each.file != file or not each.values.get(key)}
        self._closing = [closing for closing in self._closing if not closing.done()]
        for name, profile in list(self._profiles.items()):
            if found.get(name) != profile.config:
                self._closing.append(self._profiles.pop(name).close())
        for name, each in found.items():
            if name not in self._profiles:
                self._profiles[name] = AgentProfile(each, self._shared)

    def _reload_if_changed(self) -> None:
        if self._look() != self._seen:
            self.reload()

    def _look(self) -> list[_FileState]:
        """Return what changes when one of the files does."""
        seen: list[_FileState] = []
        for path in self._files:
            try:
                status = os.stat(path)
            except OSError:
                seen.append(None)
            else:
                seen.append((status.st_ino, status.st_size, status.st_ctime_ns))  # A mode changes no mtime.
        return seen
