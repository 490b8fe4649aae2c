"""The sessions of this user's processes in a TPM without a resource manager, kept in the TPM's lock file.

A TPM keeps a saved session until somebody flushes it, and has room for some 64. So what a killed process has left is
flushed by the next one. The file is read and written by whoever has locked it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

_MAX_BYTES = 65536
_SESSION = 2  # The first byte of an HMAC session's handle (TPM 2.0 Library, part 2, 7.2: TPM_HT_HMAC_SESSION).


class Entry(NamedTuple):
    """A session.

    Attributes:
        handle: its handle.
        process: the process that started it.
        resets: how often the TPM had been reset by then: a reset ends all sessions.
    """

    handle: int
    process: int
    resets: int

    @property
    def is_orphan(self) -> bool:
        """Whether its process has ended."""
        try:
            os.kill(self.process, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
        return False


class Journal:
    """The entries in a lock file.

    Args:
        file: returns the locked file, or None where there is none.
    """

    def __init__(self, file: Callable[[], int | None]) -> None:
        self._file = file

    def read(self) -> list[Entry]:
        """Return the entries."""
        file = self._file()
        lines = os.pread(file, _MAX_BYTES, 0).split(b"\n") if file is not None else ()
        parts = [line.split() for line in lines]
        entries = [Entry(*map(int, part)) for part in parts if len(part) == 3 and all(map(bytes.isdigit, part))]
        return [entry for entry in entries if entry.handle >> 24 == _SESSION]

    def add(self, handle: int, resets: int) -> None:
        """Add a session of this process."""
        entry = Entry(handle, os.getpid(), resets)
        self.replace([*(other for other in self.read() if other.handle != handle), entry])

    def remove(self, handle: int) -> None:
        """Remove a session of this process."""
        own = (handle, os.getpid())
        entries = self.read()
        kept = [entry for entry in entries if (entry.handle, entry.process) != own]
        if len(kept) < len(entries):
            self.replace(kept)

    def replace(self, entries: Iterable[Entry]) -> None:
        """Keep these entries and no others."""
        file = self._file()
        if file is not None:
            os.ftruncate(file, 0)
            os.pwrite(file, b"".join(b"%d %d %d\n" % entry for entry in entries), 0)
