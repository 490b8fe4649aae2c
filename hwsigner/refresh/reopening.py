"""An identity that stays open: for a provider, which signs with it now and then."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from hwsigner.identity import Identity, IdentitySource, open_identity
from hwsigner.key import HashName
from hwsigner.uri import KeyURI

# No key that works by itself takes so long; a person who has to touch or type something mostly does.
PERSON_SECONDS = 2.0


class HeldIdentity:
    """An identity that is held open, and opened anew when its files have changed or its leaf has expired.

    Args:
        source: the identity; or a callable that returns it, called each time that it is opened.
        monotonic: tells seconds by a clock that nobody sets.
    """

    def __init__(
        self, source: IdentitySource | Callable[[], IdentitySource], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._identity: _TimedIdentity | None = None
        self._stamps: dict[bytes, _Stamp] = {}
        self._opening = _Stopwatch(monotonic)
        self._signing = _Stopwatch(monotonic)

    def get(self, now: datetime) -> Identity:
        """Return the identity, opened if need be; raises as `open_identity`."""
        if self._identity and not self._is_outdated(self._identity, now):
            return self._identity
        self.close()
        with self._opening.running():
            source = self._source if isinstance(self._source, IdentitySource) else self._source()
            # Before the files are read: a later change is seen next time.
            self._stamps = {path: _stamp(path) for path in _files(source)}
            self._identity = _TimedIdentity(open_identity(source, now), self._signing)
        return self._identity

    def needs_person(self, now: datetime) -> bool:
        """Tell whether the next signature will want somebody to touch or type something.

        Nothing tells of a token whether it waits for a touch, so this goes by how long the last signature took, and
        where the identity has to be opened anew, the last opening.
        """
        identity = self._identity  # Another thread may be closing it.
        is_open = identity is not None and not self._is_outdated(identity, now)
        return self._signing.seconds > PERSON_SECONDS or (not is_open and self._opening.seconds > PERSON_SECONDS)

    def close(self) -> None:
        """Close the identity if it is open."""
        identity, self._identity = self._identity, None
        if identity:
            identity.close()

    def leave(self) -> None:
        """Forget the identity without closing it: what it holds, such as a connection to a TPM, is the parent's too."""
        self._identity = None

    def _is_outdated(self, identity: Identity, now: datetime) -> bool:
        is_changed = any(_stamp(path) != stamp for path, stamp in self._stamps.items())
        return is_changed or identity.chain.leaf.x509.not_valid_after_utc < now


class _Stopwatch:
    """How long something took last, whether it succeeded or not."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        begin = self._monotonic()
        try:
            yield
        finally:
            self.seconds = self._monotonic() - begin


class _TimedIdentity(Identity):
    def __init__(self, identity: Identity, stopwatch: _Stopwatch) -> None:
        super().__init__(identity.key, identity.chain)
        self._identity = identity
        self._stopwatch = stopwatch

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        with self._stopwatch.running():
            return self._identity.sign(message, hash)

    def close(self) -> None:
        self._identity.close()


_Stamp = tuple[int, int, int, int] | None


def _stamp(path: bytes) -> _Stamp:
    """Return what changes when a regular file does, or None: a pipe is read once, whatever becomes of it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _files(source: IdentitySource) -> Iterator[bytes]:
    """Yield the paths of an identity's files: those of file: and tpm2:path= URIs."""
    for uri in (source.certificate, source.private_key, source.intermediates):
        path = KeyURI.of(uri).path.get("path") if uri else None
        if path is not None:
            yield path
