"""The provider of a profile of config.toml, as the profile is now."""

from __future__ import annotations

import json
import os

from hwsigner._aws.credentials import Credentials
from hwsigner._refresh.attempts import Attempts
from hwsigner.errors import ConfigError, HwsignerError, HwsignerWarning, NoProfileError


class CurrentProvider:
    """A profile's provider: the same until the profile changes in config.toml. Thread-safe.

    While config.toml can't be read, for example because it is being edited, the last provider stays.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # By the profile's values. A dict's setdefault is atomic, and unlike a lock it can't be left locked in a child
        # process.
        self._providers: dict[str, Attempts] = {}

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt."""
        return next((provider.failure for provider in list(self._providers.values())), None)

    def __call__(self) -> Credentials:
        """Return live credentials; raises as `Provider.from_profile` and a call of a provider do."""
        return self._current()()

    def at_once(self) -> Credentials | None:
        return next((provider.at_once() for provider in list(self._providers.values())), None)

    def forget(self) -> None:
        for provider in list(self._providers.values()):
            provider.forget()

    def _current(self) -> Attempts:
        from hwsigner._config import settings
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
        found = known.pop(values, None)
        if found is None:
            read = settings.read_profile(self._name, os.environ)
            made = Attempts.from_settings(read, settings.service(read, os.environ))
            found = self._providers.setdefault(values, made)
        for old in known:
            if outdated := self._providers.pop(old, None):
                outdated.close()
        return found
