"""The slots of a TPM for transient objects: how a key stays at hand between uses, and takes no slot from others.

Behind a resource manager a key is loaded once, and stays. Without one a TPM has three slots for everybody: a key is
saved, and each use loads its saved context and flushes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple, Protocol

from tpm2_pytss import ESAPI, ESYS_TR, TPMS_CONTEXT, TSS2_Exception

from hwsigner.backends.tpm2.errors import OBJECT_MEMORY, code, is_answer, is_lost, is_not_now
from hwsigner.backends.tpm2.flushing import flush
from hwsigner.backends.tpm2.leftovers import Leftovers

Load = Callable[[], ESYS_TR]


class Owner(Protocol):
    """What stands for an object that is used again and again."""

    @property
    def tpm_name(self) -> bytes:
        """The object's TPM Name; empty where its public area is of a kind that has none here."""
        ...


class Slots(ABC):
    """The transient objects of one context.

    Attributes:
        is_spoilt: whether something could not be flushed, so that the context must be given up.
    """

    def __init__(self, esys: ESAPI) -> None:
        self._esys = esys
        self.is_spoilt = False

    @abstractmethod
    def loaded(self, owner: Owner, load: Load) -> AbstractContextManager[ESYS_TR]:
        """Give an object that is used again and again.

        Args:
            owner: what stands for it.
            load: loads it, where it is not at hand.
        """

    @abstractmethod
    def temporary(self, load: Load) -> AbstractContextManager[ESYS_TR]:
        """Give an object for one use, and flush it."""

    @abstractmethod
    def release(self, owner: object) -> None:
        """Let go of an object that is not used any more."""

    def flush(self, handle: ESYS_TR) -> bool:
        """Flush an object or a session; return whether it is gone."""
        try:
            flush(self._esys, handle)
        except TSS2_Exception:
            self.is_spoilt = True
        return not self.is_spoilt


class ManagedSlots(Slots):
    """Slots behind a resource manager, which frees them all when the connection ends."""

    def __init__(self, esys: ESAPI) -> None:
        super().__init__(esys)
        self._held: dict[object, ESYS_TR] = {}

    @contextmanager
    def loaded(self, owner: Owner, load: Load) -> Iterator[ESYS_TR]:
        """See Slots. It stays loaded."""
        if owner not in self._held:
            self._held[owner] = load()
        try:
            yield self._held[owner]
        except TSS2_Exception as error:
            if is_lost(error):
                with suppress(TSS2_Exception):
                    self._esys.tr_close(self._held.pop(owner))
            raise

    @contextmanager
    def temporary(self, load: Load) -> Iterator[ESYS_TR]:
        """See Slots."""
        handle = load()
        try:
            yield handle
        finally:
            self.flush(handle)

    def release(self, owner: object) -> None:
        """See Slots."""
        if owner in self._held:
            self.flush(self._held.pop(owner))


class Saved(NamedTuple):
    """The saved context of an object, and its TPM Name."""

    context: TPMS_CONTEXT
    name: bytes


class SharedSlots(Slots):
    """The slots of a TPM without a resource manager: in each of them after each use is what was there before it.

    Args:
        esys: the context.
        left: what may be left in the TPM.
        saved: the saved contexts, which outlive the ESAPI context.
    """

    def __init__(self, esys: ESAPI, left: Leftovers, saved: dict[object, Saved]) -> None:
        super().__init__(esys)
        self._left = left
        self._saved = saved

    @contextmanager
    def loaded(self, owner: Owner, load: Load) -> Iterator[ESYS_TR]:
        """See Slots. It is loaded from its saved context."""
        handle = self._restored(owner)
        if handle is None:
            with self.temporary(lambda: self._with_room(owner, load)) as handle:
                name = bytes(self._esys.tr_get_name(handle))
                self._saved[owner] = Saved(self._esys.context_save(handle), name)
                yield handle
            return
        try:
            yield handle
        finally:
            if self.flush(handle):
                self._left.flushed(self._saved[owner].name)

    @contextmanager
    def temporary(self, load: Load) -> Iterator[ESYS_TR]:
        """See Slots."""
        is_first = self._left.expect_objects(self._esys)
        try:
            handle = load()
            try:
                yield handle
            finally:
                self.flush(handle)
        except BaseException as error:
            # Whether there is a new object is not known after a lost answer, and not after an interruption.
            if not isinstance(error, Exception) or (isinstance(error, TSS2_Exception) and not is_answer(error)):
                self.is_spoilt = True
            raise
        finally:
            if is_first and not self.is_spoilt:
                self._left.objects_flushed()

    def release(self, owner: object) -> None:
        """See Slots."""
        self._saved.pop(owner, None)

    def _with_room(self, owner: Owner, load: Load) -> ESYS_TR:
        """Load an object, and where all slots are taken, once more without what killed processes have left of it."""
        try:
            return load()
        except TSS2_Exception as error:
            if code(error) != OBJECT_MEMORY:
                raise
            self._left.make_room(self._esys, owner.tpm_name)
            return load()

    def _restored(self, owner: Owner) -> ESYS_TR | None:
        saved = self._saved.get(owner)
        if saved is None:
            return None
        self._left.expect(saved.name)
        try:
            return self._with_room(owner, lambda: self._esys.context_load(saved.context))
        except TSS2_Exception as error:
            if not is_answer(error):
                raise
            self._left.flushed(saved.name)
            if is_not_now(error) or code(error) == OBJECT_MEMORY:
                raise
            del self._saved[owner]  # A context does not outlive a reset of the TPM.
            return None
