"""What a try that failed leaves behind: its error, and how long nobody tries again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hwsigner.errors import HwsignerError, HwsignerWarning, PinError


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
