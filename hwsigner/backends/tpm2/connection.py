"""The connection to a TPM that all keys of a process share: its locks, and what happens after faults.

An ESAPI context is not thread-safe, so there is one lock. After an input/output error a context can't be used any more:
it is replaced, and what it could not flush is flushed by the next one. This user's processes take turns by a lock file,
which is named after the TCTI.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TypeVar

from tpm2_pytss import TPMS_CONTEXT, TSS2_Exception

from hwsigner._system.environment import open_lock_file
from hwsigner._system.files import lock_within
from hwsigner.backends.tpm2.auth import AuthWantedError
from hwsigner.backends.tpm2.errors import LOCKOUT, code, is_answer, is_lost, is_not_now, signing_error
from hwsigner.backends.tpm2.tpm import TPM, SessionSettings, is_managed
from hwsigner.errors import BackendUnavailableError

_T = TypeVar("_T")
_PATIENCE_SECONDS = 10.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.5
_EXIT_SECONDS = 1.0
_EXCLUSIVE = ("device", "mssim")  # Only one process at a time can open /dev/tpm0, or reach a simulator.
_LONGEST_WAIT_SECONDS = 30.0


class TPMConnection:
    """This process's connection to a TPM, opened when it is used. Thread-safe.

    Get one with `connect`, and give it back with `release`.
    """

    def __init__(self, tcti: str) -> None:
        self.tcti = tcti
        self._is_managed = is_managed(tcti)
        self._is_exclusive = tcti.startswith(_EXCLUSIVE) and not self._is_managed
        self.users: set[object] = set()
        self._lock = threading.Lock()
        self._process_lock = ProcessLock(tcti)
        self._tpm: TPM | None = None
        self._saved: dict[object, TPMS_CONTEXT] = {}
        self._unflushed: set[int] = set()
        self._is_cut_off = False

    def run(
        self, work: Callable[[TPM], _T], subject: str, settings: SessionSettings, *, one_process: bool = False
    ) -> _T:
        """Return what some work with the TPM returns, done by one thread at a time.

        The work is repeated from its beginning: while the TPM asks for that (RETRY, NV_RATE, YIELDED, TESTING); after
        asking for an auth value that it wants; and once, if the connection broke or the TPM had lost a key or session,
        as after a reset. But not if the connection broke after an auth value was sent: it may have counted as a wrong
        one. With `one_process`, this user's other processes are kept from such work, even behind a resource manager. If
        the TPM does not answer, or other processes keep it busy, that is a BackendUnavailableError.
        """
        turn = self._process_lock if one_process or not self._is_managed else nullcontext()
        while True:
            try:
                with self._lock, turn:
                    return self._repeat(work, subject, settings)
            except AuthWantedError as wanted:
                wanted.ask()  # Without the locks: the user may take long.

    def _repeat(self, work: Callable[[TPM], _T], subject: str, settings: SessionSettings) -> _T:
        """Do the work, with the locks taken, and repeat it if that helps."""
        pause, patience, was_lost = _FIRST_PAUSE_SECONDS, _PATIENCE_SECONDS, False
        while True:
            is_at_risk = False
            try:
                tpm = self._open()
                tpm.settings, tpm.is_at_risk = settings, False
                try:
                    result = work(tpm)
                except BaseException as error:
                    is_at_risk = tpm.is_at_risk
                    self._end_use(tpm, error)
                    raise
                self._end_use(tpm, None)
                return result
            except TSS2_Exception as error:
                if code(error) == LOCKOUT:
                    raise self._repeat(TPM.lockout, subject, settings).error(self.tcti, subject) from error
                if is_not_now(error) and pause <= patience:
                    time.sleep(pause)
                    pause, patience = min(2 * pause, _LONGEST_PAUSE_SECONDS), patience - pause
                elif not was_lost and (is_lost(error) or not (is_answer(error) or is_at_risk)):
                    was_lost = True
                else:
                    raise signing_error(error, self.tcti, subject) from error

    def release(self, user: object) -> None:
        """Give the connection back, also twice, and flush what is loaded for its user. The last user closes it."""
        with _registry_lock:
            self.users.discard(user)
            is_last = not self.users
        with self._lock:
            self._saved.pop(user, None)
            if is_last:
                self._close()
            elif self._tpm is not None:
                self._tpm.release(user)

    def close_at_exit(self) -> None:
        """Close the connection after the use that another thread may be in the middle of."""
        if self._lock.acquire(timeout=_EXIT_SECONDS):
            self._close()
            self._lock.release()

    def forget(self) -> None:
        """In the child of a fork, leave to the parent what is the parent's."""
        self._lock = threading.Lock()
        self._process_lock.close()
        # D-Bus's library has a thread that the child lacks: it would wait for it forever.
        self._is_cut_off = self._is_cut_off or (self._tpm is not None and self.tcti.startswith("tabrmd"))
        self._tpm = None
        self._unflushed = set()

    def _open(self) -> TPM:
        if self._is_cut_off:
            raise BackendUnavailableError(
                f"the TPM at {self.tcti} can't be reached through tabrmd in the child of a process that used it",
                "Open keys after the fork, or use the kernel's resource manager (tcti=device:/dev/tpmrm0)",
            )
        if self._tpm is not None and self._tpm.is_stale():
            self._drop()
        if self._tpm is None:
            self._tpm = TPM(self.tcti, self._saved, self._unflushed)
        if self._unflushed:
            try:
                self._tpm.flush_left()
            except TSS2_Exception:
                self._drop()
                raise
        return self._tpm

    def _end_use(self, tpm: TPM, error: BaseException | None) -> None:
        if not tpm.end_use(error):
            self._drop()
            if self._is_managed:
                self._unflushed.clear()  # The resource manager flushes what belonged to a connection.
            elif self._unflushed:
                with suppress(BackendUnavailableError, TSS2_Exception):  # Else the next use does it.
                    self._open()
        if self._is_exclusive:
            self._drop()

    def _close(self) -> None:
        if self._unflushed:
            with suppress(BackendUnavailableError, TSS2_Exception):
                self._open()
        self._drop()
        self._process_lock.close()

    def _drop(self) -> None:
        if self._tpm is not None:
            self._tpm.close()
            self._tpm = None


class ProcessLock:
    """A lock on a TPM that one of this user's processes holds at a time. For one thread at a time.

    The file stays open between uses. If no folder is private, processes don't wait for each other.
    """

    def __init__(self, tcti: str) -> None:
        self._tcti = tcti
        self._file: int | None = None

    def __enter__(self) -> None:
        """Take the lock, or raise a BackendUnavailableError if other processes hold it for too long."""
        if self._file is not None and not os.fstat(self._file).st_nlink:
            self.close()  # The file was removed, so other processes lock a new one.
        if self._file is None:
            # Several TCTIs lead to the TPM of a resource manager.
            self._file = open_lock_file("tpm", "managed" if is_managed(self._tcti) else self._tcti)
        if self._file is None:
            return
        if not lock_within(self._file, _LONGEST_WAIT_SECONDS):
            raise BackendUnavailableError(
                f"the TPM at {self._tcti} is busy: other processes of this user have used it for "
                f"{_LONGEST_WAIT_SECONDS:g} seconds",
                "Stop the process that hangs, or use a resource manager (tcti=device:/dev/tpmrm0)",
            )

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. In the child of a fork, too: the parent keeps its lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


_connections: dict[str, TPMConnection] = {}
_registry_lock = threading.Lock()


def connect(tcti: str, user: object) -> TPMConnection:
    """Return this process's connection to a TPM, kept for a user until that releases it."""
    with _registry_lock:
        connection = _connections.setdefault(tcti, TPMConnection(tcti))
        connection.users.add(user)
        return connection


@contextmanager
def connected(tcti: str, user: object) -> Iterator[TPMConnection]:
    """Return this process's connection to a TPM, kept for a user until the end of the `with` statement."""
    connection = connect(tcti, user)
    try:
        yield connection
    finally:
        connection.release(user)


def _close_all() -> None:
    for connection in list(_connections.values()):
        connection.close_at_exit()


def _reset_after_fork() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()
    for connection in _connections.values():
        connection.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_reset_after_fork)
