"""One key's way to its TPM: uses, and doing again what the TPM asks for or what a lost connection makes good."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from tpm2_pytss import TSS2_Exception

from hwsigner.backends.tpm2 import shared as contexts
from hwsigner.backends.tpm2.context import TPM
from hwsigner.backends.tpm2.errors import LOCKOUT, code, is_answer, is_lost, is_not_now, told
from hwsigner.backends.tpm2.lockout import read_lockout
from hwsigner.backends.tpm2.sessions import SessionSettings
from hwsigner.errors import BackendUnavailableError, SigningKeyError

__all__ = ["TPM", "AuthWantedError", "Connection", "SessionSettings"]

_T = TypeVar("_T")
_PATIENCE_SECONDS = 10.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.5


class AuthWantedError(Exception):
    """An auth value must be asked for first: a person may take long, and the TPM is not kept from others meanwhile.

    Attributes:
        ask: asks for it, and keeps the answer.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__()
        self.ask = ask


class Connection:
    """A key's way to its TPM, by the context that all keys of the process share.

    Args:
        tcti: the TPM's TCTI.
        subject: the key that the connection is for, as messages name it.
        settings: how auth values are proven.
    """

    def __init__(self, tcti: str, subject: str, settings: SessionSettings | None = None) -> None:
        self.tcti = tcti
        self._subject = subject
        self._settings = settings or SessionSettings()
        self._lock = threading.Lock()
        self._context: contexts.SharedContext | None = contexts.acquire(tcti)

    def run(self, work: Callable[[TPM], _T], *, exclusive: bool = False) -> _T:
        """Return what some work with the TPM returns.

        It is done again, from its beginning: while the TPM asks for that (RETRY, YIELDED, TESTING); after asking for an
        auth value that it wants; and once, when the connection broke or the TPM had lost a key or session, as after a
        reset. But not when the connection broke after an auth value was sent: it may have counted as a wrong one.

        Args:
            work: the work.
            exclusive: keep this user's other processes from such work, also where there is a resource manager.

        Raises:
            SigningKeyError: the connection is closed, or the TPM refused something; what it says is in the message.
            BackendUnavailableError: the TPM does not answer, or other processes keep it busy.
            PinError: an auth value that it wants is missing, or the TPM is in lockout.
        """
        attempt = _Attempt(work, self.tcti, self._subject)
        again = None
        while True:
            try:
                return self._open_context().run(attempt, self._settings, exclusive=exclusive)
            except AuthWantedError as wanted:
                wanted.ask()
            except TSS2_Exception as error:
                again = again or _Again()
                if not again.is_due(error, is_at_risk=attempt.is_at_risk):
                    raise told(error, self.tcti, self._subject) from error

    def close(self, owner: object = None) -> None:
        """End the connection. Closing twice is allowed.

        Args:
            owner: the transient object to let go of.
        """
        with self._lock:
            context, self._context = self._context, None
        if context is not None:
            with suppress(BackendUnavailableError):
                contexts.release(context, owner)

    def _open_context(self) -> contexts.SharedContext:
        if self._context is None:
            raise SigningKeyError(f"key {self._subject} is closed", "Open it again")
        return self._context


class _Attempt(Generic[_T]):
    """Work with the TPM, and whether an auth value was sent when it failed."""

    def __init__(self, work: Callable[[TPM], _T], tcti: str, subject: str) -> None:
        self.is_at_risk = False
        self._work = work
        self._tcti = tcti
        self._subject = subject

    def __call__(self, tpm: TPM) -> _T:
        try:
            return self._work(tpm)
        except TSS2_Exception as error:
            self.is_at_risk = tpm.is_at_risk
            if code(error) == LOCKOUT:
                raise read_lockout(tpm.esys).error(self._tcti, self._subject) from error
            raise


class _Again:
    """Whether work is to be done again, and the pause before that."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + _PATIENCE_SECONDS
        self._pause = _FIRST_PAUSE_SECONDS
        self._was_lost = False

    def is_due(self, error: TSS2_Exception, *, is_at_risk: bool) -> bool:
        """Return true after a pause, if need be, where the work is to be done again."""
        if is_not_now(error):
            if time.monotonic() + self._pause > self._deadline:
                return False
            time.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
            return True
        is_broken = not is_answer(error) and not is_at_risk
        if self._was_lost or not (is_broken or is_lost(error)):
            return False
        self._was_lost = True
        return True
