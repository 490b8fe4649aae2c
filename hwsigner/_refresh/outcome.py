"""What comes of an attempt to create a session: the session or a failure, the state that it leaves, and warnings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from hwsigner._aws.credentials import Credentials, Reply
from hwsigner._identity.certificate import Certificate
from hwsigner._refresh.schedule import SESSION_TIMING, Lifetime
from hwsigner._system.clocks import Clocks
from hwsigner.errors import HwsignerError, HwsignerWarning, PinError, ServiceError

# Of a certificate's life.
_WARN_BELOW = 1 / 4
_URGENT_BELOW = 1 / 10
# Of what was left at the last notice: so notices become more frequent near the end.
_REPEAT_AFTER = 1 / 10


@dataclass(frozen=True)
class Session:
    """A session: its credentials, and how long they live by a clock that can't be set."""

    credentials: Credentials
    lifetime: Lifetime

    @classmethod
    def begin(cls, credentials: Credentials, begin: float, *, duration: float, clocks: Clocks) -> Session:
        """Return a new session.

        `begin` is when they were requested, by the monotonic clock. The session lives no longer than the seconds
        requested, however slow the wall clock is.
        """
        life = min((credentials.expiration - clocks.now()).total_seconds(), duration)
        return cls(credentials, SESSION_TIMING.lifetime(begin, life, random.random))

    def postponed(self, clocks: Clocks) -> Session:
        """Return the session after a failure to replace it."""
        return replace(self, lifetime=SESSION_TIMING.postponed(self.lifetime, self.left(clocks), random.random))

    def is_due(self, clocks: Clocks) -> bool:
        """Return whether a caller creates the next session."""
        return self.left(clocks) <= self.lifetime.margin

    def left(self, clocks: Clocks) -> float:
        """Return the seconds left, by the clock that leaves fewer: 0 or less once the session has expired.

        The wall clock can be set back; the other clock stops with a virtual machine.
        """
        by_wall = (self.credentials.expiration - clocks.now()).total_seconds()
        return min(self.lifetime.end - clocks.monotonic(), by_wall)


@dataclass(frozen=True)
class Rendered:
    """Credentials as the finished bytes of a format. Made where they are rendered, so that both are of one session."""

    reply: Reply = field(repr=False)
    credentials: Credentials


@dataclass(frozen=True)
class RenderedSession:
    """A session and its replies."""

    session: Session
    replies: Mapping[str, Rendered]


@dataclass(frozen=True)
class Failure:
    """A failed attempt."""

    error: HwsignerError | HwsignerWarning  # Without causes, and without the traceback, whose frames may hold a PIN.
    number: int  # How many attempts failed in a row, this one included.
    next_try: float  # When the next attempt is allowed, by the provider's clock; infinity for never.

    @property
    def request_id(self) -> str:
        """The service's number of the request that it refused, or an empty string."""
        return self.error.request_id if isinstance(self.error, ServiceError) else ""

    @property
    def is_final(self) -> bool:
        """Whether it is not retried: after a PinError, since a wrong PIN must not be sent twice."""
        return self.next_try == math.inf

    @classmethod
    def after(cls, error: Exception, last: Failure | None, next_try: Callable[[int], float]) -> Failure:
        """Return the failure for an error, after the last attempt's failure, if any.

        `next_try` returns when the next attempt is allowed after this many failures. It is not called after a PinError.
        """
        number = last.number + 1 if last else 1
        return cls(without_frames(error), number, math.inf if isinstance(error, PinError) else next_try(number))

    def to_raise(self) -> HwsignerError | HwsignerWarning:
        """Return the error as a new exception: an exception that is raised twice collects tracebacks."""
        return without_frames(self.error)


class Status(NamedTuple):
    """The state of a background provider. Nothing in it is secret.

    Attributes:
        expiration: when the last credentials expire or expired; None without any.
        left: the seconds that they have left, 0 for none.
        until_refresh: the seconds until they are refreshed in the background; infinity for never.
        failure: the error of the last attempt, or None.
        needs_person: whether they are refreshed only when a caller asks, as the key needs a person.
        is_wanted: whether a caller asked for them.
    """

    expiration: datetime | None
    left: float
    until_refresh: float
    failure: HwsignerError | HwsignerWarning | None
    needs_person: bool
    is_wanted: bool


def profile_state(failure: HwsignerError | HwsignerWarning | None, *, is_live: bool) -> str:
    """Return a profile's state: `ready` with live credentials, `failing` after a failure, else `idle`."""
    if is_live:
        return "ready"
    return "failing" if failure else "idle"


def without_frames(error: Exception) -> HwsignerError | HwsignerWarning:
    """Return a copy of an error without its traceback and causes."""
    if isinstance(error, HwsignerError | HwsignerWarning):
        with suppress(TypeError):  # The class derives from OSError too, or from another one with a layout of its own.
            # Not copy(): it would call the __init__ of a caller's subclass, which may take other arguments.
            copy = BaseException.__new__(type(error), *error.args)
            copy.__dict__.update(error.__dict__)
            return copy
    return HwsignerError(f"getting credentials failed with {type(error).__name__}", "See where it was raised first")


class ExpiryWatch:
    """Gives a notice once a certificate has a quarter of its life left, and again and again until it is replaced.

    `has_seen_session` says whether notices were given for a session already.
    """

    def __init__(self) -> None:
        self.has_seen_session = False
        self._serial = 0
        self._quiet_until: datetime | None = None

    def notice(self, leaf: Certificate, now: datetime) -> tuple[str, str] | None:
        """Return the level and text of a line for the log, or None if it is too early for the first or the next one.

        The level is `warning`, or `error` if less than a tenth of the certificate's life is left.
        """
        begin, end = leaf.x509.not_valid_before_utc, leaf.x509.not_valid_after_utc
        life, left = end - begin, end - now
        if left > life * _WARN_BELOW:
            return None
        if leaf.x509.serial_number == self._serial and self._quiet_until and now < self._quiet_until:
            return None
        self._serial, self._quiet_until = leaf.x509.serial_number, now + left * _REPEAT_AFTER
        level = "error" if left <= life * _URGENT_BELOW else "warning"
        return level, f"the certificate {leaf.subject} expires in {_words(left)}, on {end:%Y-%m-%dT%H:%MZ}. Renew it"


def _words(left: timedelta) -> str:
    minutes = max(0, int(left.total_seconds() // 60))
    for name, length in (("day", 24 * 60), ("hour", 60)):
        if minutes >= 2 * length:
            return f"{minutes // length} {name}s"
    return f"{minutes} minutes"
