"""The clocks: the wall clock, and one that can't be set."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

utc_now: Callable[[], datetime] = partial(datetime.now, UTC)
"""Returns the present time, in UTC."""
boot_time: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Returns the seconds since the machine started, suspension included. This clock can't be set."""


class Clocks:
    """The clocks that a session's life is measured with.

    Attributes:
        now: the time, with its zone.
        monotonic: seconds by a clock that can't be set.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        now: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = boot_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.now: Final = now
        self.monotonic: Final = monotonic
        self.sleep: Final = sleep
