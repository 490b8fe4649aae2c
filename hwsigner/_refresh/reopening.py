"""An identity that is kept open, for a provider that signs from time to time."""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime

from hwsigner._identity import Identity, IdentitySource, open_identity
from hwsigner._identity.certificate import Certificate
from hwsigner.key import HashName

# A key that works by itself is faster than this. A person who touches it or types a PIN is mostly slower.
PERSON_SECONDS = 2.0


class ReopeningIdentity:
    """An identity that is reopened when its files have changed or its leaf has expired.

    If its source is a callable, that is called each time that it is opened. The clock can't be set. `guard` returns a
    context manager that is open while the identity is opened, and while it signs.
    """

    def __init__(
        self, source: IdentitySource | Callable[[], IdentitySource], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.source = source
        self._monotonic = monotonic
        self._identity: Identity | None = None
        self._stamps: dict[bytes, _Stamp] = {}
        self._seconds = {"open": 0.0, "sign": 0.0}
        self.guard: Callable[[], AbstractContextManager[None]] = nullcontext

    def get(self, now: datetime) -> Identity:
        """Return the identity, opened if need be; raises as `open_identity`."""
        if self._identity and not self._is_outdated(self._identity, now):
            return self._identity
        self._close()
        with self._timed("open"):
            source = self.source if isinstance(self.source, IdentitySource) else self.source()
            # Before the files are read, so that a later change is seen next time.
            self._stamps = {path: _stamp(path) for path in source.files()}
            self._identity = _TimedIdentity(open_identity(source, now), lambda: self._timed("sign"))
        return self._identity

    @property
    def leaf(self) -> Certificate | None:
        """The certificate of the identity, if it is open."""
        identity = self._identity  # Another thread may be closing it.
        return identity.chain.leaf if identity else None

    def needs_person(self, now: datetime) -> bool:
        """Return whether the next signature will need a touch or a typed PIN, judged by how long the last one took.

        A token does not say whether it waits for a touch. If the identity must be reopened, the time of the last
        opening counts too.
        """
        identity = self._identity  # Another thread may be closing it.
        is_open = identity is not None and not self._is_outdated(identity, now)
        return max(self._seconds["sign"], 0.0 if is_open else self._seconds["open"]) > PERSON_SECONDS

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Keep how long an opening or a signature takes, whether it succeeds or not."""
        with self.guard():
            begin = self._monotonic()
            try:
                yield
            finally:
                self._seconds[what] = self._monotonic() - begin

    def expect_person(self) -> None:
        """Let `needs_person` be true until the identity was opened: how long that takes is not known."""
        self._seconds["open"] = math.inf

    def close(self) -> None:
        """Close the identity if it is open."""
        self._close()

    def _close(self) -> None:
        identity, self._identity = self._identity, None
        if identity:
            identity.close()

    def leave(self) -> None:
        """Forget the identity without closing it: after a fork, what it has open belongs to the parent too."""
        self._identity = None

    def _is_outdated(self, identity: Identity, now: datetime) -> bool:
        is_changed = any(_stamp(path) != stamp for path, stamp in self._stamps.items())
        return is_changed or identity.chain.leaf.x509.not_valid_after_utc < now


class _TimedIdentity(Identity):
    """An identity whose signatures are timed."""

    def __init__(self, identity: Identity, timed: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(identity.key, identity.chain)
        self._identity = identity
        self._timed = timed

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        with self._timed():
            return self._identity.sign(message, hash)

    def close(self) -> None:
        self._identity.close()


_Stamp = tuple[int, int, int, int] | None


def _stamp(path: bytes) -> _Stamp:
    """Return what changes when a regular file does; None for anything else: a pipe can be read only once."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
