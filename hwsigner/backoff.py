"""What a try that failed leaves behind: its error, and how long nobody tries again."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from hwsigner.errors import HwsignerError, HwsignerWarning, PinError

# Seconds.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 120.0
_MAX_DOUBLINGS = 10


@dataclass(frozen=True)
class Setback:
    """A try that failed.

    Attributes:
        error: its error, without the traceback, whose frames may hold a PIN, and without its chain.
        number: how many tries failed in a row, this one included.
        next_try: when the next may be made, in seconds of the clock that `after` was given; infinity for never.
    """

    error: HwsignerError | HwsignerWarning
    number: int
    next_try: float

    @classmethod
    def after(cls, error: Exception, last: Setback | None, clock: Callable[[], float]) -> Setback:
        """Return the setback after an error.

        The pause doubles from 1 s to 120 s, less up to a half by chance. After a PinError nobody tries again, since a
        wrong PIN must not be sent twice.

        Args:
            error: what the try met.
            last: the setback of the try before, or None if that succeeded.
            clock: tells seconds; not asked after a PinError.
        """
        number = last.number + 1 if last else 1
        kept = _without_traceback(error)
        if isinstance(error, PinError):
            return cls(kept, number, math.inf)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(number - 1, _MAX_DOUBLINGS))
        return cls(kept, number, clock() + pause * random.uniform(0.5, 1))  # noqa: S311  no secret

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
