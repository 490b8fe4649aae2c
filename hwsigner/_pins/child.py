"""What `cmd:` programs and pinentries share: their environment, and waiting for what they print."""

from __future__ import annotations

import math
import os
import select
import time

MAX_PIN_BYTES = 4096
VARIABLE = "HWSIGNER_PIN"


def child_environment() -> dict[str, str]:
    """Return this process's environment without HWSIGNER_PIN, for a child process."""
    return {name: value for name, value in os.environ.items() if name != VARIABLE}


def wait_until_readable(descriptor: int, deadline: float) -> bool:
    """Wait until a descriptor has data or its other end is closed; return False if the deadline comes first.

    The deadline is a time of `time.monotonic`.
    """
    left = deadline - time.monotonic()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return left > 0 and bool(poll.poll(math.ceil(left * 1000)))
