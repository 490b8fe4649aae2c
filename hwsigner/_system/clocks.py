"""The clocks: the wall clock, one that can't be set, and the name of the present run of the machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
utc_now: Callable[[], datetime] = partial(datetime.now, UTC)
"""Returns the present time, in UTC."""
if sys.platform == "darwin":
    _RUNS_ON = time.CLOCK_MONOTONIC  # Also in sleep, unlike `time.monotonic` there.
else:
    _RUNS_ON = time.CLOCK_BOOTTIME
boot_time: Callable[[], float] = partial(time.clock_gettime, _RUNS_ON)
"""Returns the seconds since the machine started, suspension included. This clock can't be set."""


def boot_id() -> bytes:
    """Return what changes when the machine restarts, and the clock with it; empty if this process can't see that."""
    if sys.platform == "darwin":
        import ctypes

        text, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
        failed = ctypes.CDLL(None).sysctlbyname(
            b"kern.bootsessionuuid", text, ctypes.byref(size), None, ctypes.c_size_t(0)
        )
        return b"" if failed else text.value
    try:
        with open(_BOOT_ID, "rb") as file:
            return file.read()
    except OSError:  # A sandbox hides it, such as ProcSubset=pid.
        return b""


class Clocks:
    """The clocks that a session's life is measured with: the time with its zone, seconds that can't be set, and a
    sleep.
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
