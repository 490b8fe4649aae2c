"""The touch sensor of an emulated YubiKey."""

from __future__ import annotations

import threading
import time

_WAIT_SECONDS = 15.0
# How long a touch counts if the policy is `cached`.
_CACHED_SECONDS = 15.0


class TouchSensor:
    """A touch sensor, for which signatures wait.

    Attributes:
        seconds: how long the card waits for a touch. A YubiKey waits 15 seconds.
        delay: if set, a touch is simulated after this many seconds of waiting.
        asked: how often the card has waited for a touch.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting = self._touched = self._gone = False
        self.reset()

    def reset(self) -> None:
        """Forget all touches and restore the settings of a YubiKey."""
        self.seconds = _WAIT_SECONDS
        self.delay: float | None = None
        self.asked = 0
        self._last = -_CACHED_SECONDS

    def touch(self) -> None:
        """Touch the card. This has no effect unless the card is waiting."""
        with self._condition:
            if self._waiting:
                self._touched = True
                self._condition.notify_all()

    def set_power(self, *, on: bool) -> None:
        """Connect the card, or disconnect it and end all waiting."""
        with self._condition:
            self._gone, self._last = not on, -_CACHED_SECONDS
            self._condition.notify_all()

    def wait_until_asked(self, seconds: float = 60.0) -> bool:
        """Wait until the card is waiting for a touch, and return whether it is."""
        with self._condition:
            return self._condition.wait_for(lambda: self._waiting, seconds)

    def wait(self, *, cached: bool) -> bool:
        """Wait for a touch, or accept a recent one if `cached`, and return whether there was one in time."""
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
