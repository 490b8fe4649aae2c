"""A profile whose credentials a server gives out: those of a running agent, or of a provider of this process."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from hwsigner.agent.source import AgentOrOwn
from hwsigner.system.clocks import utc_now

if TYPE_CHECKING:
    from hwsigner.refresh.background import BackgroundProvider


class ServedProfile:
    """A profile and its credentials.

    Args:
        name: its name; the role's name if there is no profile.
        role_arn: the role's ARN. Without one, no provider can be made.
        make: makes the provider of this process; raises a UsageError for invalid settings.
        asks_agent: whether an agent may have the same credentials.
    """

    def __init__(
        self, name: str, role_arn: str, make: Callable[[], BackgroundProvider], *, asks_agent: bool = False
    ) -> None:
        self.name = name
        self.role = role_arn.rpartition("/")[2]
        self.credentials = AgentOrOwn(name if asks_agent else None, self._make_started, role_arn=role_arn)
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
            own.close()

    def state(self) -> tuple[str, datetime | None, str]:
        """Return the state, when the last credentials expire, and the cause of the last failure.

        The state is `ready`, `failing`, `starting` until the first session, or `idle` once one has expired and no
        client has asked since.
        """
        own, failure = self.credentials.own_if_made(), self.credentials.failure
        expiration = self.credentials.expiration or (own.status().expiration if own else None)
        cause = failure.cause if failure else ""
        if expiration and expiration > utc_now():
            return "ready", expiration, cause
        return "failing" if cause else "idle" if expiration else "starting", expiration, cause

    def _make_started(self) -> BackgroundProvider:
        made = self._make()
        if self._is_started:
            made.start()
        return made
