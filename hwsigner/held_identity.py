"""An identity that stays open: for a provider, which signs with it now and then."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from datetime import datetime

from hwsigner.identity import Identity, IdentitySource, open_identity
from hwsigner.uri import KeyURI


class HeldIdentity:
    """An identity that is held open, and opened anew when its files have changed or its leaf has expired."""

    def __init__(self, source: IdentitySource | Callable[[], IdentitySource]) -> None:
        self._source = source
        self._identity: Identity | None = None
        self._stamps: dict[bytes, _Stamp] = {}

    def get(self, now: datetime) -> Identity:
        """Return the identity, opened if need be; raises as `open_identity`."""
        if self._identity and not self._is_outdated(self._identity, now):
            return self._identity
        self.close()
        source = self._source if isinstance(self._source, IdentitySource) else self._source()
        # Before the files are read: a later change is seen next time.
        self._stamps = {path: _stamp(path) for path in _files(source)}
        self._identity = open_identity(source, now)
        return self._identity

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
