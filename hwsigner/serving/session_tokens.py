"""The tokens of IMDSv2: each is its own expiry and a MAC over it, so that nothing is kept of them."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

from hwsigner.clocks import boot_time

LONGEST_SECONDS = 21600

_EXPIRY_LENGTH = 16
# Another one each time that the machine starts, and with it the clock.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SessionTokens:
    """Issues tokens and knows its own again, and those of another run with the same secret, until the machine restarts.

    Some SDKs (Ruby's) keep a token for six hours, and are at a loss for minutes when it is not known any more.

    Args:
        secret: 32 bytes of chance or more, which the tokens tell nobody.
        clock: tells seconds by a clock that nobody sets.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = boot_time) -> None:
        self.clock = clock
        self._key = hmac.digest(secret, b"IMDSv2 " + _BOOT_ID.read_bytes(), "sha256")

    def issue(self, seconds: int) -> bytes:
        """Return a token that is good for some seconds: 80 hexadecimal digits."""
        expiry = b"%016x" % int(self.clock() + seconds)
        return expiry + self._mac(expiry)

    def expiry(self, token: bytes) -> float | None:
        """Return when a token expires or expired, by the clock; None if it was not issued here."""
        expiry = token[:_EXPIRY_LENGTH]
        if hmac.compare_digest(token[_EXPIRY_LENGTH:], self._mac(expiry)):
            return int(expiry, 16)
        return None

    def _mac(self, expiry: bytes) -> bytes:
        return hmac.digest(self._key, expiry, "sha256").hex().encode()
