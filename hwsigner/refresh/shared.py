"""One provider for each profile of config.toml, which all of a process share."""

from __future__ import annotations

import json
import os

from hwsigner.errors import ConfigError, NoProfileError
from hwsigner.refresh.provider import Provider

# By the profile's name and its values. A dict's setdefault is atomic, and unlike a lock it can't be left locked in a
# child process.
_providers: dict[tuple[str, str], Provider] = {}


def shared_provider(name: str) -> Provider:
    """Return the provider of a profile: the same for all callers, until the profile changes in config.toml.

    While config.toml can't be read, for example because it is being edited, the last provider stays.

    Raises:
        HwsignerError, HwsignerWarning: as `Provider.from_profile`.
    """
    from hwsigner.config.profiles import profile

    known = {key: provider for key, provider in list(_providers.items()) if key[0] == name}
    try:
        values = profile(name, os.environ).values
    except NoProfileError:
        raise
    except ConfigError:
        if not known:
            raise
        return next(iter(known.values()))
    key = (name, json.dumps(values, default=str))
    provider = known.pop(key, None) or _providers.setdefault(key, Provider.from_profile(name))
    for old in known:
        if outdated := _providers.pop(old, None):
            outdated.close()
    return provider
