"""Waiting until an AWS API takes a request that it throttled.

By default, IAM Roles Anywhere takes one request a second for each kind of resource. botocore's own pauses are shorter
than that, and it says nothing of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import sleep
from typing import Any

THROTTLED = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})
# Seconds before each further attempt. They grow for the case that other programs use the same quota.
PAUSES = (1.1, 1.3, 1.7, 2.5, 4.0, 6.0, 9.0)
_JITTER_SECONDS = 0.3


class Patience:
    """Waits before a throttled request is sent again. For botocore's event needs-retry.

    Args:
        say: shows one line, before each pause.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __call__(self, *, response: Any, operation: Any, attempts: int, **_: object) -> float | None:
        """Wait, and return 0 so that botocore sends the request again; None leaves the decision to botocore."""
        code = (response[1].get("Error") or {}).get("Code") if response else None
        if code not in THROTTLED or attempts > len(PAUSES):
            return None
        pause = PAUSES[attempts - 1] + random.uniform(0, _JITTER_SECONDS)  # noqa: S311 - no secret
        self._say(f"AWS takes no more {operation.name} requests for now: waiting {pause:.1f} s")
        sleep(pause)
        return 0
