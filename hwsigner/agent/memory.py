"""The agent's secrets in memory that is not swapped and not dumped: one mapping, given out by pages.

mlock is for this mapping alone: a normal user may lock some megabytes and no whole process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import threading
import weakref

from hwsigner.errors import AgentError

SIZE = 1 << 20
_LEAST = 16 * mmap.PAGESIZE
# <linux/mman.h>, which Python has no name for.
_MADV_WIPEONFORK = 18

_libc = ctypes.CDLL(None, use_errno=True)


class LockedMemory:
    """Memory for secrets: locked, in no core dump, and all zeros in a child process. Safe to use by all threads.

    Args:
        size: how many bytes, if the user may lock as many; else as many as that.

    Raises:
        AgentError: the user may lock hardly any memory.
    """

    def __init__(self, size: int = SIZE) -> None:
        size = min(size, _lockable())
        if size < _LEAST:
            raise AgentError(
                f"only {size} bytes of memory can be locked", "Raise the limit: LimitMEMLOCK=, or ulimit -l"
            )
        self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_DONTDUMP)
        self._map.madvise(_MADV_WIPEONFORK)
        _lock(self._map, size)
        self._view = memoryview(self._map)
        self._is_used = bytearray(size // mmap.PAGESIZE)
        # A release may come at any moment to the thread that takes: it does no harm there.
        self._lock = threading.RLock()

    def put(self, data: bytes) -> memoryview:
        """Return a copy of data; raises as `take`."""
        taken = self.take(len(data))
        taken[:] = data
        return taken

    def take(self, size: int) -> memoryview:
        """Return so many bytes of zero. They are overwritten when the view itself is gone; a slice keeps nothing.

        Raises:
            AgentError: so much is not free.
        """
        count = -(-size // mmap.PAGESIZE)
        with self._lock:
            first = self._is_used.find(bytes(count))
            if first < 0:
                raise AgentError("the agent's locked memory is full", "Give it fewer profiles")
            self._is_used[first : first + count] = b"\1" * count
        begin = first * mmap.PAGESIZE
        taken = self._view[begin : begin + size]
        weakref.finalize(taken, self._release, first, count).atexit = False
        return taken

    @property
    def used_pages(self) -> int:
        """How many pages are given out."""
        return self._is_used.count(1)

    def _release(self, first: int, count: int) -> None:
        begin, end = first * mmap.PAGESIZE, (first + count) * mmap.PAGESIZE
        self._view[begin:end] = bytes(end - begin)
        with self._lock:
            self._is_used[first : first + count] = bytes(count)


def _lockable() -> int:
    """Return how many bytes this process may lock, as whole pages; the limit is raised as far as it can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    limit = SIZE if hard == resource.RLIM_INFINITY or os.geteuid() == 0 else hard
    return limit // mmap.PAGESIZE * mmap.PAGESIZE


def _lock(memory: mmap.mmap, size: int) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)) != 0:
        problem = os.strerror(ctypes.get_errno())
        raise AgentError(f"{size} bytes of memory can't be locked: {problem}", "Raise LimitMEMLOCK=, or ulimit -l")
