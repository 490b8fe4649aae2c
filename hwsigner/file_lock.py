"""Locks on files, by which processes take turns (flock(2)): waited for, and not for ever."""

from __future__ import annotations

import fcntl
import time

_PAUSE_SECONDS = 0.002


def lock_within(file: int, seconds: float) -> bool:
    """Lock an open file for this process alone, and wait for others as long as that takes.

    Args:
        file: its descriptor. Closing it, and all that were inherited of it, lets the others have their turn.
        seconds: how long to wait at most.

    Returns:
        False if others held it all the time.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
