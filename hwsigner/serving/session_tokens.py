"""The tokens of IMDSv2: each is its own expiry and a MAC over it, so that nothing is kept of them."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

from hwsigner.held_session import boot_time

LONGEST_SECONDS = 21600

_EXPIRY_LENGTH = 16


class SessionTokens:
    """Issues tokens and knows its own again. Another instance, that of the next run, knows none of them.

    Attributes:
        clock: tells seconds by a clock that nobody sets.
    """

    def __init__(self, clock: Callable[[], float] = boot_time) -> None:
        self.clock = clock
        self._key = secrets.token_bytes(32)

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
