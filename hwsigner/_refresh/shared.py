"""The provider of a profile of config.toml, as the profile is now."""

from __future__ import annotations

import json
import os

from hwsigner._aws.credentials import Credentials
from hwsigner._refresh.provider import Provider
from hwsigner.errors import ConfigError, HwsignerError, HwsignerWarning, NoProfileError


class CurrentProvider:
    """A profile's provider: the same until the profile changes in config.toml. Thread-safe.

    While config.toml can't be read, for example because it is being edited, the last provider stays.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # By the profile's values. A dict's setdefault is atomic, and unlike a lock it can't be left locked in a child
        # process.
        self._providers: dict[str, Provider] = {}

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt."""
        return next((provider.failure for provider in list(self._providers.values())), None)

    def __call__(self) -> Credentials:
        """Return live credentials; raises as `Provider.from_profile` and a call of a provider do."""
        return self._current()()

    def _at_once(self) -> Credentials | None:
        return next((provider._at_once() for provider in list(self._providers.values())), None)

    def _forget(self) -> None:
        for provider in list(self._providers.values()):
            provider._forget()

    def _current(self) -> Provider:
        from hwsigner._config.profiles import profile

        known = dict(self._providers)
        try:
            values = json.dumps(profile(self._name, os.environ).values, default=str)
        except NoProfileError:
            raise
        except ConfigError:
            if not known:
                raise
            return next(iter(known.values()))
        found = known.pop(values, None) or self._providers.setdefault(values, Provider.from_profile(self._name))
        for old in known:
            if outdated := self._providers.pop(old, None):
                outdated.close()
        return found
