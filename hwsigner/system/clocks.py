"""What time it is, by two clocks: one that people set, and one that nobody does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present time, in UTC."""
    return datetime.now(UTC)


def boot_time() -> float:
    """Return the seconds since the machine started, suspension included; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Clocks:
    """The clocks of who holds sessions.

    Attributes:
        now: tells the time, with its zone.
        monotonic: tells seconds by a clock that nobody sets.
        sleep: waits some seconds.
    """

    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = boot_time
    sleep: Callable[[float], None] = time.sleep
