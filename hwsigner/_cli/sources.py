"""From profiles and flags to the profiles that `serve` and `exec` give out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hwsigner._agent.source import ServedProfile
from hwsigner._cli.parser import Arguments
from hwsigner._cli.process import asker, let_ask
from hwsigner._config import settings

if TYPE_CHECKING:
    from hwsigner._aws.credentials import Credentials
    from hwsigner._refresh.monitor import Monitor
    from hwsigner._refresh.outcome import Failure
    from hwsigner._refresh.refresher import Refresher
    from hwsigner.errors import NoProfileError


def of_profile(name: str, monitor: Monitor | None = None) -> ServedProfile:
    """Return a profile of config.toml. A running agent gives its credentials, or else a provider of this process."""
    return of_settings(read_profile(name), name, monitor, asks_agent=True)


def read_profile(name: str) -> settings.Settings:
    """Return the settings of a profile of config.toml, whose key may ask for a PIN; raises as `of_profile`."""
    values = settings.read_profile(name, os.environ)
    let_ask(values)
    return values


def of_flags(arguments: Arguments, monitor: Monitor | None = None, *, asks_agent: bool) -> ServedProfile:
    """Return the profile that a command line's flags describe, with the profile that they may name.

    If `asks_agent`, the flags only name a profile, so that an agent has the same credentials.
    """
    name = arguments.profile or arguments.config_profile
    return of_settings(arguments.settings, name, monitor, asks_agent=asks_agent)


def of_settings(
    values: settings.Settings,
    name: str | None,
    monitor: Monitor | None = None,
    *,
    asks_agent: bool,
    hidden: NoProfileError | None = None,
) -> ServedProfile:
    """Return the profile that settings describe, whose name they may have; otherwise as `of_flags`.

    If it is hidden from this user, the error says so once the system's agent has no credentials.
    """
    settings.serve_profile(name or "", values)
    role_arn = values.role_arn or ""
    shown = name or role_arn.rpartition("/")[2]

    def make() -> Refresher:
        from hwsigner._refresh.refresher import Refresher

        if hidden:
            raise hidden

        def note(outcome: Credentials | Failure) -> None:
            if monitor:
                monitor.attempted(shown, outcome, made)

        made = Refresher.from_settings(values, settings.service_for_daemon(values))
        made.configure(attended=values.attended, on_try=note)
        return made

    ask_pin = asker(values.pinentry)
    return ServedProfile(shown, role_arn, make, asks_agent=asks_agent and name is not None, ask_pin=ask_pin)
