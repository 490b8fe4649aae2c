"""Refusals with a detail for the log alone: the API server's words name audiences and UIDs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from http import HTTPStatus

from hwsigner._serving.responses import HTTPRefusal

# The same reason for the same address is logged once in this time. This many are remembered.
LOG_SECONDS = 30.0
MAX_KINDS = 1024


class VerifierRefusal(HTTPRefusal):
    """A refusal with a detail that only the log may show. The client may retry after `seconds`, if that helps.

    `cause` says for metrics why a token can't be verified now.
    """

    def __init__(
        self, status: HTTPStatus, reason: str, detail: str = "", *, seconds: float | None = None, cause: str = ""
    ) -> None:
        super().__init__(
            status, reason, {} if seconds is None else {b"retry-after": b"%d" % max(1, math.ceil(seconds))}
        )
        self.detail = detail
        self.cause = cause

    @property
    def is_final(self) -> bool:
        """Whether it says that the token is bad, and will be."""
        return self.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

    def again(self) -> VerifierRefusal:
        """Return the same refusal for another client, without this one's traceback."""
        refusal = VerifierRefusal(self.status, self.reason, self.detail, cause=self.cause)
        refusal.headers = self.headers
        return refusal


def invalid(reason: str, detail: str = "") -> VerifierRefusal:
    """Return the refusal of a token that is not valid here."""
    return VerifierRefusal(HTTPStatus.UNAUTHORIZED, reason, detail)


def unverifiable(detail: str, seconds: float = 1.0, *, cause: str = "error") -> VerifierRefusal:
    """Return the refusal of a token that can't be verified now."""
    reason = "the token can't be verified now: see the log of hwsigner serve"
    return VerifierRefusal(HTTPStatus.SERVICE_UNAVAILABLE, reason, detail, seconds=seconds, cause=cause)


class RefusalLog:
    """The log of refusals' details: once in a while for each address and reason, or for all if no token is to blame."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._quiet_until: dict[tuple[str, str], float] = {}  # The oldest first.

    def __len__(self) -> int:
        return len(self._quiet_until)

    def note(self, refusal: VerifierRefusal, account: str, address: str) -> None:
        """Log the detail of a refusal, if it has one, of a token that says this account and came from this address."""
        kind = (address, refusal.reason) if refusal.is_final else ("", refusal.detail)
        now = time.monotonic()
        if not refusal.detail or now < self._quiet_until.get(kind, 0.0):
            return
        self._quiet_until.pop(kind, None)
        if len(self) >= MAX_KINDS:
            del self._quiet_until[next(iter(self._quiet_until))]
        self._quiet_until[kind] = now + LOG_SECONDS
        did = "refused" if refusal.is_final else "could not verify"
        self._log(f"warning: {did} a token that says {account}, from {address}: {refusal.detail}")
