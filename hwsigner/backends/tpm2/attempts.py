"""Auth values, and what keeps a wrong one from locking the TPM for everybody.

Each is sent as long as it is right, and once where it is wrong. Where wrong ones count towards the TPM's lockout, one
that was wrong in an earlier process is not sent again, and none that could be the one that locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tpm2_pytss import TSS2_Exception

from hwsigner.backends.tpm2 import refusals
from hwsigner.backends.tpm2.context import TPM
from hwsigner.backends.tpm2.errors import AUTH_FAIL, BAD_AUTH, code, is_answer
from hwsigner.backends.tpm2.lockout import Lockout, read_lockout
from hwsigner.errors import PinError, PinLockedError, PinRequiredError, WrongPinError
from hwsigner.pins import FoundPin

_MAX_AUTH_BYTES = 64  # TPM2B_AUTH holds the longest digest (TPM 2.0 Library, part 2, 10.4.5).

# Where an auth value comes from: a stored place, a person, or nowhere, which makes it the empty one.
Origin = Literal["stored", "typed", "unstated"]
STORED: Origin = "stored"
TYPED: Origin = "typed"
UNSTATED: Origin = "unstated"


@dataclass(frozen=True)
class Auth:
    """An auth value to send.

    Attributes:
        value: its bytes.
        origin: where it comes from.
        allow_final_try: send it even where one more wrong one locks the TPM.
        missing: the error of there being no place for it, where the empty one is tried since nobody can be asked.
    """

    value: bytes = field(repr=False)
    origin: Origin
    allow_final_try: bool
    missing: PinRequiredError | None = None

    @property
    def kind(self) -> refusals.Kind:
        """What its refusal is kept as."""
        if self.origin == UNSTATED:
            return refusals.UNSTATED
        return refusals.GIVEN if self.value else refusals.GIVEN_EMPTY


# For a key whose policy does without.
NO_AUTH = Auth(b"", STORED, allow_final_try=False)


class Lock(NamedTuple):
    """What an auth value opens.

    Attributes:
        kind: what the auth value is called, such as `TPM auth value`.
        subject: what it opens, as messages name it.
        name: the TPM Name in hexadecimal, or a hierarchy's name.
        guarded: whether a wrong one counts towards the TPM's lockout.
        hint: where to give it.
    """

    kind: str
    subject: str
    name: str
    guarded: bool
    hint: str


def auth_of(
    found: FoundPin | None, lock: Lock, *, allow_final_try: bool, missing: PinRequiredError | None = None
) -> Auth:
    """Return the auth value that was found, or the empty one where none was.

    Raises:
        PinError: it is longer than a TPM's can be.
    """
    origin = UNSTATED if found is None else STORED if found.is_stored else TYPED
    value = (found.pin if found else "").encode("utf-8", "surrogateescape")
    if len(value) > _MAX_AUTH_BYTES:
        raise PinError(
            f"the {lock.kind} for {lock.subject} has more than {_MAX_AUTH_BYTES} bytes, so it was not sent",
            "Give the one that it was made with",
        )
    return Auth(value, origin, allow_final_try, missing)


def is_held_back(tpm: TPM, lock: Lock) -> bool:
    """Return whether an earlier refusal, or there being no place to keep one, holds back the empty auth value."""
    if not lock.guarded:
        return False
    lockout = read_lockout(tpm.esys)
    refusals.forget_if_fewer(lock.name, lockout.failures)
    if not lockout.failures or lockout.left is None:
        return False
    is_kept = refusals.held_back(lock.name, refusals.UNSTATED, lockout.failures) is not None
    return is_kept or not refusals.has_place()


class Proof:
    """An auth value on its way to what it opens.

    Attributes:
        auth: the auth value.
        is_proven: whether the TPM took it.
    """

    def __init__(self, lock: Lock, auth: Auth) -> None:
        self.auth = auth
        self.is_proven = False
        self._lock = lock
        self._is_refused = False
        self._failures = 0  # So many wrong ones the TPM counted before this one.
        self._broke_off = False

    @property
    def is_guess(self) -> bool:
        """Whether it may be wrong, and would count."""
        return self._lock.guarded and not self.is_proven

    def check(self, tpm: TPM) -> None:
        """Look whether the auth value may be sent.

        Raises:
            PinLockedError: it may not be sent now.
        """
        if not self.is_proven:
            self._refuse_to_guess(tpm)

    def confirm(self) -> None:
        """Keep it that the TPM took it."""
        if not self.is_proven:
            if self._lock.guarded:
                refusals.forget(self._lock.name, self.auth.value)
            self.is_proven = True

    def fail(self, tpm: TPM, error: TSS2_Exception) -> None:
        """Keep what a failed command means for it.

        Raises:
            WrongPinError: it is wrong.
            PinRequiredError: the empty one was tried since no place gives one, and is wrong.
        """
        if not is_answer(error):
            self._break_off(tpm)
        elif code(error) in (AUTH_FAIL, BAD_AUTH):
            self.is_proven, self._is_refused = False, True
            raise self._wrong(tpm) from error

    @contextmanager
    def attempt(self, tpm: TPM) -> Iterator[None]:
        """Check it, and keep what becomes of it; raises as `check` and `fail`."""
        self.check(tpm)
        try:
            yield
        except TSS2_Exception as error:
            self.fail(tpm, error)
            raise
        self.confirm()

    def _refuse_to_guess(self, tpm: TPM) -> None:
        if self._is_refused:
            raise self._not_again("was wrong before")
        if not self._lock.guarded:
            return
        lockout = read_lockout(tpm.esys)
        if self._broke_off and lockout.failures > self._failures:
            raise self._not_again("was sent when the connection broke off, the TPM counts one more wrong one since")
        self._broke_off, self._failures = False, lockout.failures
        if self.auth.allow_final_try or lockout.left is None:
            return
        if self.auth.missing and lockout.left <= 1:
            raise self.auth.missing
        if not lockout.left:
            raise lockout.error(tpm.tcti, self._lock.subject)
        if lockout.left == 1:
            raise PinLockedError(
                f"the TPM at {tpm.tcti} counts {lockout.failures} wrong auth values and locks at "
                f"{lockout.limit}, so none was sent for {self._lock.subject}",
                f"{lockout.way_out}; --allow-final-pin-try sends it nonetheless",
            )
        if self.auth.origin != TYPED and lockout.failures:
            self._refuse_to_repeat(tpm, lockout)

    def _refuse_to_repeat(self, tpm: TPM, lockout: Lockout) -> None:
        kind, subject, origin = self._lock.kind, self._lock.subject, self.auth.origin
        earlier = refusals.held_back(self._lock.name, self.auth.kind, lockout.failures)
        if earlier is not None:
            raise PinLockedError(
                f"an earlier {kind} for {subject} was wrong, so the {origin} one was not sent",
                _held_back_hint((lockout.failures - max(earlier, 1) + 1) * lockout.interval),
            )
        if not refusals.has_place():
            raise PinLockedError(
                f"the TPM at {tpm.tcti} counts {lockout.failures} wrong auth values and no folder can "
                f"keep for which keys, so the {origin} one for {subject} was not sent",
                _held_back_hint(lockout.failures * lockout.interval),
            )

    def _not_again(self, why: str) -> PinLockedError:
        return PinLockedError(
            f"the {self._lock.kind} for {self._lock.subject} {why}, and is not sent again",
            "Open the key again with the right one",
        )

    def _break_off(self, tpm: TPM) -> None:
        """Keep it that the TPM may have counted a wrong one: it has, if it counts more than before."""
        if self.is_guess and tpm.is_at_risk:
            self._broke_off = True
            refusals.record(self._lock.name, self.auth.kind, self._failures + 1)

    def _wrong(self, tpm: TPM) -> PinError:
        left = ""
        if self._lock.guarded:
            lockout = read_lockout(tpm.esys)
            refusals.record(self._lock.name, self.auth.kind, lockout.failures)
            left = _tries_left(lockout)
        kind, subject = self._lock.kind, self._lock.subject
        if self.auth.missing:
            return self.auth.missing
        if self.auth.origin != UNSTATED:
            return WrongPinError(f"wrong {kind} for {subject}{left}", "Check it before another try")
        return WrongPinError(
            f"the {kind} of {subject} is not the empty one, which was tried{left}", f"Give it: {self._lock.hint}"
        )


def _held_back_hint(seconds: int) -> str:
    return (
        "Correct it and run once with --allow-final-pin-try, or let the TPM forget the failure: "
        f"run tpm2_dictionarylockout --clear-lockout, or wait {seconds} seconds"
    )


def _tries_left(lockout: Lockout) -> str:
    if lockout.left is None:
        return ""
    return f": {lockout.left} {'try is' if lockout.left == 1 else 'tries are'} left before the TPM locks"
