"""From profiles and flags to the credentials that `serve` and `exec` give out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from hwsigner.agent.source import AgentFirst, agent_credentials
from hwsigner.cli import options
from hwsigner.cli.parser import Arguments
from hwsigner.config import settings
from hwsigner.serving.credentials import FORMATS
from hwsigner.system.clocks import utc_now

if TYPE_CHECKING:
    from hwsigner.aws.credentials import Credentials, Reply
    from hwsigner.cli.watching import Watch
    from hwsigner.refresh.background import BackgroundProvider
    from hwsigner.refresh.outcome import Failure
    from hwsigner.serving.credentials import Source

# Takes a line, and its fields as keyword arguments.
Log = Callable[..., None]


@dataclass(frozen=True)
class ServedProfile:
    """A profile and its credentials.

    Attributes:
        name: its name; the role's name if flags were given without a profile.
        role: the role's name, the last part of its ARN.
        source: its credentials.
        local: the provider of this process. It is not used while an agent gives the credentials.
    """

    name: str
    role: str
    source: Source
    local: LazyProvider

    def state(self) -> tuple[str, datetime | None, str]:
        """Return the state, when the last credentials expire, and the cause of the last failure.

        The state is `ready`, `failing`, `starting` until the first session, or `idle` once one has expired and no
        client has asked since.
        """
        expiration, cause = self.local.state()
        if isinstance(self.source, AgentFirst):
            expiration, cause = self.source.expiration or expiration, self.source.cause or cause
        if expiration and expiration > utc_now():
            return "ready", expiration, cause
        return "failing" if cause else "idle" if expiration else "starting", expiration, cause


class LazyProvider:
    """A source with a provider that is made when a reply is first asked for. Thread-safe.

    Args:
        make: makes the provider; raises a UsageError for invalid settings.
    """

    def __init__(self, make: Callable[[], BackgroundProvider]) -> None:
        self._make = make
        self._made: BackgroundProvider | None = None
        self._is_started = False
        self._lock = threading.Lock()

    def read(self, name: str) -> Reply | None:
        """Implement Source.read."""
        return self._made.read(name) if self._made else None

    def reply(self, name: str) -> Reply:
        """Implement Source.reply."""
        return self.provider().reply(name)

    def provider(self) -> BackgroundProvider:
        """Return the provider; make it if need be."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
                if self._is_started:
                    self._made.start()
            return self._made

    def state(self) -> tuple[datetime | None, str]:
        """Return when the last credentials expire or expired, and the cause of the last attempt's failure."""
        status = self._made.status() if self._made else None
        failure = status.failure if status else None
        return status.expiration if status else None, failure.cause if failure else ""

    def start(self) -> None:
        """Start refreshing in the background, now or when the provider is made."""
        with self._lock:
            self._is_started = True
            if self._made:
                self._made.start()

    def forget(self) -> None:
        """Close the provider, if it was made, and make another when it is needed."""
        with self._lock:
            made, self._made = self._made, None
        if made:
            made.close()

    def close(self) -> None:
        """Close the provider, if it was made."""
        if self._made:
            self._made.close()


def of_profile(name: str, log: Log, watch: Watch | None = None) -> ServedProfile:
    """Return a profile of config.toml. A running agent gives its credentials, or else a provider of this process.

    Args:
        name: its name.
        log: takes a line for each session and each failure.
        watch: is told of sessions and failures.

    Raises:
        ConfigError: there is no such profile, or it contains a key that is not a flag.
    """
    values = settings.read_profile(name, os.environ)
    return _served(values, name, partial(_provider, values, log=log, watch=watch), asks_agent=True)


def of_flags(arguments: Arguments, log: Log, watch: Watch | None = None, *, asks_agent: bool) -> ServedProfile:
    """Return the profile that a command line's flags describe, with the profile that they may name.

    Args:
        arguments: the command line.
        log: takes a line for each session and each failure.
        watch: is told of sessions and failures.
        asks_agent: whether the flags only name a profile, so that an agent has the same credentials.
    """
    name = arguments.profile or arguments.config_profile
    values = arguments.settings
    return _served(values, name, partial(_provider, values, log=log, watch=watch), asks_agent=asks_agent)


def _served(
    values: settings.Settings, name: str | None, make: Callable[[str], BackgroundProvider], *, asks_agent: bool
) -> ServedProfile:
    settings.serve_profile(name or "", values)
    role = (values.role_arn or "").rpartition("/")[2]  # Without one, no provider can be made.
    local = LazyProvider(partial(make, name or role))
    if not (name and asks_agent):
        return ServedProfile(name or role, role, local, local)
    source = AgentFirst(partial(agent_credentials, name, values.role_arn or ""), local, FORMATS)
    return ServedProfile(name, role, source, local)


def _provider(values: settings.Settings, name: str, log: Log, watch: Watch | None) -> BackgroundProvider:
    from hwsigner.aws.credentials import Credentials
    from hwsigner.refresh.background import BackgroundProvider

    def note(outcome: Credentials | Failure) -> None:
        if watch:
            watch.tried(name, outcome, made)
        if isinstance(outcome, Credentials):
            log(
                f"{name}: created a session, good until {outcome.expiration:%Y-%m-%dT%H:%M:%SZ}",
                profile=name,
                access_key_id=outcome.access_key_id,
                session_arn=outcome.assumed_role_arn,
                request_id=outcome.request_id,
            )
            if notice := made.expiry_notice():
                log(f"{notice} ({name})", profile=name)
        else:
            error = outcome.error
            log(f"error: {name}: no session: {error}", profile=name, cause=error.cause, request_id=outcome.request_id)

    def render(format: Callable[[Credentials], bytes], credentials: Credentials) -> bytes:
        if watch:
            watch.issued(name, credentials, made)
        return format(credentials)

    formats = {name: partial(render, make) for name, make in FORMATS.items()}
    made = BackgroundProvider(options.provider(values), formats=formats, attended=values.attended, on_try=note)
    return made
