"""Programs that are asked for a PIN: what they are given, and how long they are waited for."""

from __future__ import annotations

import math
import os
import select
import time

MAX_PIN_BYTES = 4096
VARIABLE = "HWSIGNER_PIN"


def child_environment() -> dict[str, str]:
    """Return the environment for a child process: without HWSIGNER_PIN."""
    return {name: value for name, value in os.environ.items() if name != VARIABLE}


def wait_until_readable(descriptor: int, deadline: float) -> bool:
    """Wait until a descriptor has data or its other end is closed, and return True; False from the deadline on.

    Args:
        descriptor: of a pipe.
        deadline: by `time.monotonic`.
    """
    left = deadline - time.monotonic()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return left > 0 and bool(poll.poll(math.ceil(left * 1000)))
