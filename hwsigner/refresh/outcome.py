"""A session that is held: its credentials, and how long they live by two clocks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from hwsigner.aws.credentials import Credentials
from hwsigner.errors import HwsignerError, HwsignerWarning, PinError
from hwsigner.refresh.schedule import POLICY, Lease
from hwsigner.system.clocks import Clocks


@dataclass(frozen=True)
class Setback:
    """A try that failed.

    Attributes:
        error: its error, without the traceback, whose frames may hold a PIN, and without its chain.
        number: how many tries failed in a row, this one included.
        next_try: when the next may be made, in seconds of the provider's clock; infinity for never.
    """

    error: HwsignerError | HwsignerWarning
    number: int
    next_try: float

    @property
    def is_final(self) -> bool:
        """Whether nobody tries again by himself: after a PinError."""
        return self.next_try == math.inf

    @classmethod
    def after(cls, error: Exception, last: Setback | None, next_try: Callable[[int], float]) -> Setback:
        """Return the setback after an error.

        After a PinError nobody tries again, since a wrong PIN must not be sent twice.

        Args:
            error: what the try met.
            last: the setback of the try before, or None if that succeeded.
            next_try: tells when the next may be made, after so many that failed; not asked after a PinError.
        """
        number = last.number + 1 if last else 1
        kept = _without_traceback(error)
        return cls(kept, number, math.inf if isinstance(error, PinError) else next_try(number))

    def to_raise(self) -> HwsignerError | HwsignerWarning:
        """Return the error as a new exception: one that is raised again and again would gather tracebacks."""
        return _without_traceback(self.error)


def _without_traceback(error: Exception) -> HwsignerError | HwsignerWarning:
    if isinstance(error, HwsignerError | HwsignerWarning):
        # copy() would call the __init__ of a caller's subclass, with arguments that it may not take.
        try:
            bare = BaseException.__new__(type(error), *error.args)
        except TypeError:  # The class is an OSError, or another one of a layout of its own, too.
            return _described(error)
        bare.__dict__.update(error.__dict__)
        return bare
    return _described(error)


def _described(error: Exception) -> HwsignerError:
    return HwsignerError(f"getting credentials failed with {type(error).__name__}", "See where it was raised first")


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
