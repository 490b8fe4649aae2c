"""The profiles that `serve` and `exec` give out, by profiles of config.toml and flags."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from hwsigner._agent.agent_or_own import AgentOrOwn
from hwsigner._cli.parser import Arguments
from hwsigner._cli.process import asker, let_ask
from hwsigner._config import settings
from hwsigner._pins import AskPin
from hwsigner._refresh.outcome import profile_state
from hwsigner._system.clocks import utc_now

if TYPE_CHECKING:
    from hwsigner._aws.credentials import Credentials
    from hwsigner._refresh.monitor import Monitor
    from hwsigner._refresh.outcome import Failure
    from hwsigner._refresh.refresher import Refresher
    from hwsigner.errors import NoProfileError


class ServedProfile:
    """A profile and its credentials.

    Without a profile, the name is that of the role. Without the role's ARN, no provider can be made. `make` makes the
    provider of this process. `asks_agent` says whether an agent may have the same credentials.
    """

    def __init__(
        self,
        name: str,
        role_arn: str,
        make: Callable[[], Refresher],
        *,
        asks_agent: bool = False,
        ask_pin: AskPin | None = None,
    ) -> None:
        self.name = name
        self.role = role_arn.rpartition("/")[2]
        self.credentials = AgentOrOwn(
            name if asks_agent else None, self._make_started, role_arn=role_arn, ask_pin=ask_pin
        )
        self._make = make
        self._is_started = False

    def start(self) -> None:
        """Let the provider refresh in the background, now or when it is made."""
        self._is_started = True
        if own := self.credentials.own_if_made():
            own.start()

    def close(self) -> None:
        """Close the provider, if it was made."""
        if own := self.credentials.own_if_made():
            own.stop()

    def state(self) -> tuple[str, datetime | None, str]:
        """Return the state, when the last credentials expire, and the cause of the last failure.

        The state is `ready`, `failing`, `starting` until the first session, or `idle` once one has expired and no
        client has asked since.
        """
        own, failure, of_agent = self.credentials.own_if_made(), self.credentials.failure, self.credentials.of_agent
        expiration = of_agent.expiration if of_agent else own.status().expiration if own else None
        state = profile_state(failure, is_live=expiration is not None and expiration > utc_now())
        if state == "idle" and expiration is None:
            state = "starting"
        return state, expiration, failure.cause if failure else ""

    def _make_started(self) -> Refresher:
        made = self._make()
        if self._is_started:
            made.start()
        return made


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
