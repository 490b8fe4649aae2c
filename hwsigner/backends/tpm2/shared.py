"""What the keys of a process share that are in one TPM: its ESAPI context, and what becomes of that after faults.

A context is no thread's own and not made for several at once, so there is one lock. After an input/output error it is
of no use any more: it is made anew, and what the fault left in the TPM is flushed.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from tpm2_pytss import TSS2_Exception

from hwsigner.backends.tpm2.context import TPM, Context, SavedContexts
from hwsigner.backends.tpm2.errors import is_answer
from hwsigner.backends.tpm2.journal import Journal
from hwsigner.backends.tpm2.leftovers import Leftovers
from hwsigner.backends.tpm2.process_lock import Turns, is_exclusive, is_managed
from hwsigner.backends.tpm2.sessions import SessionSettings
from hwsigner.errors import BackendUnavailableError

_T = TypeVar("_T")
_EXIT_SECONDS = 1.0
_TRIES_TO_EMPTY = 2


class SharedContext:
    """The context, opened when it is used, and its lock."""

    def __init__(self, tcti: str) -> None:
        self.tcti = tcti
        self.users = 0
        self._lock = threading.Lock()
        self._context: Context | None = None
        self._turns = Turns(tcti)
        self._saved = SavedContexts({}, {})
        self._left = Leftovers(Journal(self._turns.file))
        self._is_cut_off = False

    def run(self, work: Callable[[TPM], _T], settings: SessionSettings, *, exclusive: bool) -> _T:
        """Return what some work with the TPM returns, in one thread at a time.

        Args:
            work: the work.
            settings: how auth values are proven.
            exclusive: keep this user's other processes from such work, also where there is a resource manager.

        Raises:
            BackendUnavailableError: the TPM can't be reached, or other processes keep it busy.
            TSS2_Exception: the TPM refused something, or broke off.
        """
        with self._lock:
            self._turns.take(exclusive=exclusive)
            try:
                context = self._opened()
                try:
                    result = work(context.tpm(settings))
                except BaseException as error:
                    self._settle(context, error)
                    raise
                self._settle(context, None)
                return result
            finally:
                self._turns.give()

    def close(self) -> None:
        """End the context, and leave nothing in the TPM. It is opened again when it is used again."""
        with self._lock:
            try:
                if not is_managed(self.tcti) and (self._context or self._left or self._saved.sessions):
                    self._turns.take()
                    self._empty()
            finally:
                self._turns.give()
                self._drop()
                self._saved.objects.clear()
                self._turns.close()

    def release(self, owner: object) -> None:
        """Let go of a transient object."""
        with self._lock:
            self._saved.objects.pop(owner, None)
            if self._context is not None:
                self._context.slots.release(owner)

    def close_at_exit(self) -> None:
        """Close it, unless another thread is in the midst of a use."""
        if self._lock.acquire(timeout=_EXIT_SECONDS):
            self._lock.release()
            with suppress(BackendUnavailableError, TSS2_Exception):
                self.close()

    def forget(self) -> None:
        """In the child of a fork: leave to the parent what is the parent's, its connection and its sessions."""
        self._lock = threading.Lock()
        self._turns.close()
        # D-Bus's library has a thread, which the child has not: it would wait in vain.
        self._is_cut_off = self._is_cut_off or (self._context is not None and self.tcti.startswith("tabrmd"))
        self._context = None
        self._saved = SavedContexts({}, {})
        self._left = Leftovers(Journal(self._turns.file))

    def _opened(self) -> Context:
        if self._is_cut_off:
            raise BackendUnavailableError(
                f"the TPM at {self.tcti} can't be reached through tabrmd in the child of a process that used it",
                "Open keys after the fork, or take the kernel's resource manager (tcti=device:/dev/tpmrm0)",
            )
        if self._context is not None and self._context.is_stale():
            self._drop()
        if self._context is None:
            self._context = Context(self.tcti, self._left, self._saved)
        if self._left:
            self._clear(self._context)
        return self._context

    def _settle(self, context: Context, error: BaseException | None) -> None:
        """After a use, leave the TPM as it was before it; after a fault, give the context up and clear up at once."""
        is_broken = isinstance(error, TSS2_Exception) and not is_answer(error)
        if not is_broken:
            try:
                context.park(is_sound=error is None)
            except TSS2_Exception:
                is_broken = True
        if is_broken or context.slots.is_spoilt:
            self._drop()
        if self._left:
            # If it can't be done now, it is done before the next use.
            with suppress(BackendUnavailableError, TSS2_Exception):
                self._opened()
        if is_exclusive(self.tcti):
            self._drop()

    def _clear(self, context: Context) -> None:
        try:
            self._left.clear(context.esys)
        except TSS2_Exception:
            self._drop()
            raise

    def _empty(self) -> None:
        if self._context is not None:
            self._context.end_sessions()
        for saved in self._saved.sessions.values():
            self._left.sessions.expect_saved(int(saved.savedHandle))
        self._saved.sessions.clear()
        for _ in range(_TRIES_TO_EMPTY):
            if self._left:
                with suppress(BackendUnavailableError, TSS2_Exception):
                    self._opened()

    def _drop(self) -> None:
        if self._context is not None:
            self._context.esys.close()
            self._context = None


_contexts: dict[str, SharedContext] = {}
_contexts_lock = threading.Lock()


def acquire(tcti: str) -> SharedContext:
    """Return the context of a TPM, which is this process's only one. The caller releases it."""
    with _contexts_lock:
        context = _contexts.setdefault(tcti, SharedContext(tcti))
        context.users += 1
        return context


def release(context: SharedContext, owner: object) -> None:
    """Give a context back, with a transient object that is not used any more. It is closed when its last user does."""
    with _contexts_lock:
        context.users -= 1
        is_last = not context.users
    if is_last:
        context.close()
    else:
        context.release(owner)


def _close_all() -> None:
    for context in list(_contexts.values()):
        context.close_at_exit()


def _reset_after_fork() -> None:
    global _contexts_lock
    _contexts_lock = threading.Lock()
    for context in _contexts.values():
        context.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_reset_after_fork)
