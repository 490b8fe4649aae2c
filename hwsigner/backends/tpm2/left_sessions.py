"""Sessions in a TPM without a resource manager: those that a fault or a killed process has left there."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tpm2_pytss import ESAPI

from hwsigner.backends.tpm2.flushing import SESSIONS, flush, handles_at
from hwsigner.backends.tpm2.journal import Entry, Journal


class LeftSessions:
    """The sessions of this process, and which of them may be in a state that is not known."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._born: dict[int, int] = {}  # How often the TPM had been reset when each was started.
        self._at_stake: set[int] = set()
        self._before: frozenset[int] | None = None
        self._resets = 0

    def __bool__(self) -> bool:
        return bool(self._at_stake) or self._before is not None

    def expect(self, esys: ESAPI) -> None:
        """Look which sessions are there before one of ours is started, and flush those of processes that have ended."""
        self._resets = _resets(esys)
        self._flush_kept(esys, (entry for entry in self._journal.read() if entry.is_orphan))
        self._before = frozenset(handles_at(esys, SESSIONS))

    def make_room(self, esys: ESAPI) -> None:
        """Flush the sessions of all processes of this user. Those that still run start new ones."""
        self._flush_kept(esys, (entry for entry in self._journal.read() if entry.process != os.getpid()))

    def started(self, handle: int) -> None:
        """Keep it that a session of ours is loaded."""
        self._born[handle] = self._resets
        self._at_stake.add(handle)
        self._before = None
        self._journal.add(handle, self._resets)

    def not_started(self) -> None:
        """Keep it that the TPM refused to start one."""
        self._before = None

    def expect_saved(self, handle: int) -> None:
        """Keep it that a saved session of ours is about to be loaded, or of no more use."""
        self._at_stake.add(handle)

    def saved(self, handle: int) -> None:
        """Keep it that a session is saved, and is to stay so."""
        self._at_stake.discard(handle)

    def flushed(self, handle: int) -> None:
        """Keep it that a session is not in the TPM any more."""
        self._at_stake.discard(handle)
        self._born.pop(handle, None)
        self._journal.remove(handle)

    def clear(self, esys: ESAPI) -> None:
        """Flush whatever is left.

        Raises:
            TSS2_Exception: that could not be done. It still counts as left.
        """
        resets = _resets(esys) if self._at_stake else 0
        for handle in tuple(self._at_stake):
            if self._born.get(handle) == resets:  # Else it is another program's by now.
                flush(esys, esys.tr_from_tpmpublic(handle))
            self.flushed(handle)
        if self._before is not None:
            for handle in handles_at(esys, SESSIONS):
                if handle not in self._before:
                    flush(esys, esys.tr_from_tpmpublic(handle))
            self._before = None

    def _flush_kept(self, esys: ESAPI, entries: Iterable[Entry]) -> None:
        gone = set()
        for entry in entries:
            if entry.resets == self._resets:
                flush(esys, esys.tr_from_tpmpublic(entry.handle))
            gone.add(entry)
        if gone:
            self._journal.replace(entry for entry in self._journal.read() if entry not in gone)


def _resets(esys: ESAPI) -> int:
    """Return how often the TPM was reset (TPM 2.0 Library, part 2, 10.11.1: TPMS_CLOCK_INFO.resetCount)."""
    clock = esys.read_clock()  # The numbers are a part of it.
    return int(clock.clockInfo.resetCount)
