"""This process's memory: hidden from other programs, locked, and given back to the system."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes
    import mmap

_PR_SET_DUMPABLE = 4  # From <linux/prctl.h>; Python has no name for it.
_PT_DENY_ATTACH = 31  # From macOS's <sys/ptrace.h>.
# Of <sys/mman.h>; Python's mmap has no names for them.
_MADV_WIPEONFORK = 18
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT, _MLOCK_ONFAULT = 1, 2, 4, 1


def forbid_dumps() -> None:
    """Forbid other programs of the same user to read this process's memory, and core dumps of it and its children."""
    import _ctypes  # Importing ctypes takes 1.6 ms at each start, and this 0.5.
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    name, arguments = ("ptrace", (_PT_DENY_ATTACH,)) if sys.platform == "darwin" else ("prctl", (_PR_SET_DUMPABLE, 0))
    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # as CDLL does
    _ctypes.call_function(_ctypes.dlsym(library, name), (*arguments, 0, 0, 0))


def hide(made: mmap.mmap) -> None:
    """Keep a mapping out of core dumps, and zero in children. On macOS, `forbid_dumps` alone does the former."""
    if sys.platform != "darwin":
        import mmap

        made.madvise(mmap.MADV_DONTDUMP)
        made.madvise(_MADV_WIPEONFORK)


def lock(made: mmap.mmap, flags: int = 0) -> str:
    """Lock a mapping; return what is wrong, or an empty text. `flags` are of mlock2(2), which macOS lacks."""
    import ctypes

    address, size = ctypes.addressof(ctypes.c_char.from_buffer(made)), ctypes.c_size_t(len(made))
    if sys.platform == "darwin":
        failed = _libc().mlock(ctypes.c_void_p(address), size)
    else:
        failed = _libc().mlock2(ctypes.c_void_p(address), size, flags)
    return os.strerror(ctypes.get_errno()) if failed else ""


def lock_all(limit: int) -> None:
    """Lock all memory of this process, unless a limit applies: threads and allocations would fail when it is reached.

    macOS can't. `limit` is the hard limit of locked memory, which need not apply to root.
    """
    if sys.platform != "darwin":
        import mmap
        import resource

        with suppress(OSError, OverflowError):  # This much memory can't be mapped.
            # Root may be limited too, as in a container: it is not if more than the limit can be locked.
            if limit == resource.RLIM_INFINITY or not lock(mmap.mmap(-1, limit + mmap.PAGESIZE), _MLOCK_ONFAULT):
                _libc().mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def return_free() -> None:
    """Return free memory to the system. glibc would keep what lies below anything in use."""
    name = "malloc_zone_pressure_relief" if sys.platform == "darwin" else "malloc_trim"
    function = getattr(_libc(), name, None)  # Other C libraries lack it.
    if function:
        function(None, 0) if sys.platform == "darwin" else function(0)


@cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)
