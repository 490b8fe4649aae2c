"""Time that passes only by sleeping, and the access key of a trial's administrator."""

from __future__ import annotations

from collections.abc import Callable

KEY = ("AKIDTRIAL", "a-secret-of-the-trial")


class FakeTime:
    """Time that only passes by sleeping.

    Attributes:
        on_sleep: called before each sleep.
    """

    def __init__(self) -> None:
        self.passed = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.on_sleep()
        self.passed += seconds
