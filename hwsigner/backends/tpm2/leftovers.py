"""What a fault may have left in a TPM without a resource manager: there, nobody but us frees what is ours.

An answer that never came may have held the handle of a new object. Such objects are known by their Names, or by not
having been there before.
"""

from __future__ import annotations

from tpm2_pytss import ESAPI, TSS2_Exception

from hwsigner.backends.tpm2.errors import SEQUENCE, code
from hwsigner.backends.tpm2.flushing import TRANSIENT, flush, flush_sequence, found, handles_at
from hwsigner.backends.tpm2.journal import Journal
from hwsigner.backends.tpm2.left_sessions import LeftSessions


class Leftovers:
    """Objects and sessions that may be in the TPM, and are flushed by `clear`.

    Args:
        journal: where sessions are kept for the next process.

    Attributes:
        sessions: the sessions.
    """

    def __init__(self, journal: Journal) -> None:
        self.sessions = LeftSessions(journal)
        self._names: set[bytes] = set()
        self._before: frozenset[int] | None = None

    def __bool__(self) -> bool:
        return bool(self._names) or self._before is not None or bool(self.sessions)

    def expect(self, name: bytes) -> None:
        """Keep it that the object of a Name is about to be loaded."""
        self._names.add(name)

    def flushed(self, name: bytes) -> None:
        """Keep it that it is not loaded any more."""
        self._names.discard(name)

    def expect_objects(self, esys: ESAPI) -> bool:
        """Look which objects are there before one of ours is loaded; return false where that was done already."""
        if self._before is not None:
            return False
        self._before = frozenset(handles_at(esys, TRANSIENT))
        return True

    def objects_flushed(self) -> None:
        """Keep it that none of the objects that were loaded since then is loaded any more."""
        self._before = None

    def make_room(self, esys: ESAPI, name: bytes) -> None:
        """Flush what killed processes have left of a Name, where all slots are taken: we have none of them loaded."""
        for handle in handles_at(esys, TRANSIENT):
            object_ = found(esys, handle)
            if object_ is not None and bytes(esys.tr_get_name(object_)) == name:
                flush(esys, object_)

    def clear(self, esys: ESAPI) -> None:
        """Flush whatever is left.

        Raises:
            TSS2_Exception: that could not be done. It still counts as left.
        """
        if self._names or self._before is not None:
            for handle in handles_at(esys, TRANSIENT):
                self._flush_object(esys, handle)
            self._names.clear()
            self._before = None
        self.sessions.clear(esys)

    def _flush_object(self, esys: ESAPI, handle: int) -> None:
        is_new = self._before is not None and handle not in self._before
        try:
            object_ = found(esys, handle)
        except TSS2_Exception as error:
            if code(error) != SEQUENCE:
                raise
            if is_new:
                flush_sequence(esys, handle)
            return
        if object_ is None:
            return
        if is_new or bytes(esys.tr_get_name(object_)) in self._names:
            flush(esys, object_)
        else:
            esys.tr_close(object_)
