"""Memory for the agent's secrets: never swapped, in no core dump, and zero in child processes."""

from __future__ import annotations

import mmap
import resource
import weakref
from collections.abc import Callable

from hwsigner._system.memory import hide, lock, lock_all
from hwsigner.errors import AgentError

_HINT = "Raise the limit: LimitMEMLOCK=, or ulimit -l; in a container, allow CAP_IPC_LOCK too"


def lock_process() -> None:
    """Lock all memory of this process, if no limit applies: RLIMIT_MEMLOCK is infinite, or root runs it.

    Under a limit, threads and allocations would fail when it is reached: then only LockedMemory is locked, as on macOS.
    If not even a page can be locked, this is an AgentError.
    """
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    if problem := lock(mmap.mmap(-1, mmap.PAGESIZE)):
        raise AgentError(f"no memory can be locked: {problem}", _HINT)
    lock_all(limit)


class LockedMemory:
    """Memory for secrets, which grows with them: a mapping of whole pages for each. Thread-safe.

    Once RLIMIT_MEMLOCK is reached (8 MiB for most users, some 2,000 secrets), further secrets lie in memory that may be
    swapped. All else is the same for them, and `log` takes one line.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._maps: set[mmap.mmap] = set()
        self._is_full = False

    def put(self, data: bytes) -> memoryview:
        """Return a copy of a secret; see `take`."""
        taken = self.take(len(data))
        taken[:] = data
        return taken

    def take(self, size: int) -> memoryview:
        """Return this many zero bytes. They are overwritten once the view itself is gone; a slice does not keep it."""
        made = mmap.mmap(-1, max(1, size), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        hide(made)
        problem = lock(made)
        if problem and not self._is_full:
            self._is_full = True
            self._log(f"warning: some credentials and PINs may be swapped: {len(self)} lie in locked memory. {_HINT}")
        self._maps.add(made)
        view = memoryview(made)
        weakref.finalize(view, self._release, made).atexit = False
        return view

    def __len__(self) -> int:
        """Return how many secrets there are."""
        return len(self._maps)

    def _release(self, made: mmap.mmap) -> None:
        made[:] = bytes(len(made))
        self._maps.discard(made)
