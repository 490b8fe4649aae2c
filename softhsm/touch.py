"""The touch sensor of an emulated YubiKey."""

from __future__ import annotations

import threading
import time

_WAIT_SECONDS = 15.0
# A touch counts for so long where the policy is `cached`.
_CACHED_SECONDS = 15.0


class TouchSensor:
    """A sensor at which a signature waits.

    Attributes:
        seconds: how long the card waits for a touch; a YubiKey waits 15 seconds.
        delay: if set, the card is touched by itself after so many seconds of waiting.
        asked: how often the card has waited for a touch.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting = self._touched = self._gone = False
        self.reset()

    def reset(self) -> None:
        """Forget all touches, and wait for the next as a YubiKey does."""
        self.seconds = _WAIT_SECONDS
        self.delay: float | None = None
        self.asked = 0
        self._last = -_CACHED_SECONDS

    def touch(self) -> None:
        """Touch the card. A touch that the card does not wait for does nothing."""
        with self._condition:
            if self._waiting:
                self._touched = True
                self._condition.notify_all()

    def set_power(self, *, on: bool) -> None:
        """Connect the card, or end all waiting because it is gone."""
        with self._condition:
            self._gone, self._last = not on, -_CACHED_SECONDS
            self._condition.notify_all()

    def wait_until_asked(self, seconds: float = 10.0) -> bool:
        """Wait until the card waits for a touch, and return whether it does."""
        with self._condition:
            return self._condition.wait_for(lambda: self._waiting, seconds)

    def wait(self, *, cached: bool) -> bool:
        """Wait for a touch, or make do with a recent one, and return whether there was one in time."""
        with self._condition:
            if cached and time.monotonic() - self._last < _CACHED_SECONDS:
                return True
            self._waiting, self._touched = True, False
            self.asked += 1
            self._condition.notify_all()
            comes_by_itself = self.delay is not None and self.delay < self.seconds
            limit = self.delay if comes_by_itself else self.seconds
            self._condition.wait_for(lambda: self._touched or self._gone, limit)
            self._waiting = False
            touched = (self._touched or comes_by_itself) and not self._gone
            if touched:
                self._last = time.monotonic()
            return touched
