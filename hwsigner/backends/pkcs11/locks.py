"""Locks of PKCS #11 modules and tokens. `_pkcs11_module` says which there are, and in which order they are taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol


class Lock(Protocol):
    """What a token is used under: `threading.RLock()`, or `BothLocks`."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class CallLock:
    """A reentrant lock that its holder can let go of entirely for a while."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner = 0
        self._depth = 0

    def acquire(self, timeout: float = -1) -> bool:
        """Acquire the lock, for ever or for some seconds; 0 does not wait."""
        acquired = self._lock.acquire(timeout != 0, timeout if timeout > 0 else -1)
        if acquired:
            self._owner = threading.get_ident()
            self._depth += 1
        return acquired

    def release(self) -> None:
        """Release the lock once."""
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let others have the lock, however often this thread has acquired it, if it has."""
        depth = self._depth if self._owner == threading.get_ident() else 0
        for _ in range(depth):
            self.release()
        try:
            yield
        finally:
            for _ in range(depth):
                self.acquire()


class BothLocks:
    """Two locks, taken in their order and released in the other."""

    def __init__(self, first: threading.RLock, second: CallLock) -> None:
        self._first = first
        self._second = second

    def __enter__(self) -> None:
        self._first.acquire()
        self._second.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._second.release()
        self._first.release()


def remaining(deadline: float) -> float:
    """Return the seconds until a time of `time.monotonic()`, at least 0."""
    return max(deadline - time.monotonic(), 0)
