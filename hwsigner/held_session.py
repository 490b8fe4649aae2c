"""A session that is held: its credentials, and how long they live by two clocks."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime

from hwsigner.clocks import Clocks
from hwsigner.credentials import Credentials
from hwsigner.schedule import POLICY, Lease


@dataclass(frozen=True)
class HeldSession:
    """A session's credentials, and their life by the clock that nobody sets."""

    credentials: Credentials
    lease: Lease

    @classmethod
    def begin(cls, credentials: Credentials, begin: float, *, duration: float, clocks: Clocks) -> HeldSession:
        """Return a new session.

        Args:
            credentials: its credentials.
            begin: when they were asked for, by the monotonic clock.
            duration: the seconds that were asked for: they live no longer, however slow the wall clock is.
            clocks: what time it is.
        """
        life = min(_seconds_until(credentials.expiration, clocks.now()), duration)
        return cls(credentials, POLICY.lease(begin, life, random.random))

    def postponed(self, clocks: Clocks) -> HeldSession:
        """Return the session after a try to replace it has failed."""
        return replace(self, lease=POLICY.postponed(self.lease, self.left(clocks), random.random))

    def left(self, clocks: Clocks) -> float:
        """Return the seconds of life that are left; not above 0 when they have ended."""
        return self.lease.left(clocks.monotonic(), _seconds_until(self.credentials.expiration, clocks.now()))


def _seconds_until(end: datetime, now: datetime) -> float:
    return (end - now).total_seconds()
