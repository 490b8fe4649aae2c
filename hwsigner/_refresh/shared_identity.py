"""An identity that several providers use: its key is opened once, and one of them at a time signs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from hwsigner._identity import Identity, IdentitySource
from hwsigner._identity.certificate import Chain
from hwsigner._refresh.outcome import Failure
from hwsigner._refresh.reopening import ReopeningIdentity
from hwsigner._system.clocks import boot_time
from hwsigner.errors import CertificateError
from hwsigner.key import HashName

# After a failure of the key, no provider tries it for so long.
PAUSE_SECONDS = 5.0

_T = TypeVar("_T")


class SharedIdentity(ReopeningIdentity):
    """An identity that several providers use. Thread-safe.

    It is closed once `part` was called as often as `join`. After a failure of the key it is opened again, but for some
    seconds no provider may try. After a PinError none may at all: each would send the wrong PIN again.
    """

    def __init__(
        self, source: IdentitySource | Callable[[], IdentitySource], monotonic: Callable[[], float] = boot_time
    ) -> None:
        super().__init__(source, monotonic)
        self._lock = threading.RLock()
        self._count_lock = threading.Lock()  # Never held for long, unlike the other.
        self._users = 0
        self._failure: Failure | None = None

    def get(self, now: datetime) -> Identity:
        """Return the identity, opened if need be; raises as `open_identity`, or the last failure again."""
        with self._lock:
            return _SharedTurn(self, self._try(lambda: super(SharedIdentity, self).get(now)), now)

    def sign(self, message: bytes, hash: HashName, chain: Chain, now: datetime) -> bytes:
        """Sign as `Identity.sign`, after other providers' signatures."""
        with self._lock:
            if self.get(now).chain.leaf.public_key() != chain.leaf.public_key():
                raise CertificateError("the key was replaced just before a signature", "Retry")
            return self._try(lambda: super(SharedIdentity, self).get(now).sign(message, hash))

    def close(self) -> None:
        """Do nothing. The other providers use it."""

    def join(self) -> None:
        """Count one more provider. Does not wait for a signature."""
        with self._count_lock:
            self._users += 1

    def part(self) -> None:
        """Count one provider less. After the last one, close the identity."""
        with self._count_lock:
            self._users -= 1
        with self._lock:
            if not self._users:
                self._close()

    def leave(self) -> None:
        """Forget the identity without closing it, after a fork."""
        self._lock, self._count_lock = threading.RLock(), threading.Lock()
        super().leave()

    def _try(self, act: Callable[[], _T]) -> _T:
        failure = self._failure
        if failure and self._monotonic() < failure.next_try:
            raise failure.to_raise()
        try:
            result = act()
        except Exception as error:
            self._failure = Failure.after(error, failure, lambda _: self._monotonic() + PAUSE_SECONDS)
            with suppress(Exception):  # The first error is the one to report.
                self._close()
            raise
        self._failure = None
        return result


class _SharedTurn(Identity):
    """The identity as it was for one request of one provider."""

    def __init__(self, shared: SharedIdentity, identity: Identity, now: datetime) -> None:
        super().__init__(identity.key, identity.chain)
        self._shared = shared
        self._now = now

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        return self._shared.sign(message, hash, self.chain, self._now)

    def close(self) -> None:
        pass
