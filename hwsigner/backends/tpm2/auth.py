"""Auth values: where they come from, and the guard that keeps a wrong one from locking the TPM for everybody.

Those of a key, and of its parent or of the hierarchy of a primary key, come from the PIN mechanism, each from places of
its own. An auth value is sent as long as it is right; if it is wrong, it was sent once. If wrong ones count towards the
TPM's lockout, one that was wrong in an earlier process is not sent again, and none is sent that could be the one that
locks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

from tpm2_pytss import TSS2_Exception

from hwsigner._pins import IF_ANY, FoundPin, PinRequest, PinSource
from hwsigner._system.files import change_stamp
from hwsigner._uri import KeyURI
from hwsigner.backends import refusals
from hwsigner.backends.tpm2.errors import AUTH_FAIL, BAD_AUTH, code, is_answer
from hwsigner.backends.tpm2.tpm import TPM, Lockout
from hwsigner.errors import PinError, PinLockedError, PinRequiredError, WrongPinError

_MAX_AUTH_BYTES = 64  # TPM2B_AUTH holds the longest digest (TPM 2.0 Library, part 2, 10.4.5).

# Where an auth value comes from: a stored place, the user, or nowhere, which makes it the empty one.
Origin = Literal["stored", "typed", "unstated"]
STORED: Origin = "stored"
TYPED: Origin = "typed"
UNSTATED: Origin = "unstated"
# What a refusal is kept as: of a given auth value; of the empty one that was given; of the empty one that was not.
_KINDS = ("given", "given-empty", UNSTATED)


class AuthWantedError(Exception):
    """The user must be asked for an auth value, while others can use the TPM: answering may take long.

    `ask` asks for it, and keeps the answer.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        super().__init__()
        self.ask = ask


class Auth:
    """An auth value to send."""

    def __init__(
        self,
        value: bytes,
        origin: Origin,
        *,
        allow_final_try: bool = False,
        missing: PinRequiredError | None = None,
        found: FoundPin | None = None,
    ) -> None:
        self.value: Final = value
        self.origin: Final = origin
        self.allow_final_try: Final = allow_final_try  # Send it even if one more wrong one locks the TPM.
        self.missing: Final = missing  # The error that no place gives one, if the empty one is tried for that reason.
        self.found: Final = found  # The PIN that it was made from, if any.


# For a key whose policy needs none.
NO_AUTH = Auth(b"", STORED)


class Guarded:
    """What an auth value opens: a key, its parent, or a hierarchy."""

    def __init__(self, kind: str, subject: str, name: str, risks_lockout: bool, source: str, file: str = "") -> None:
        self.kind: Final = kind  # What the auth value is called, such as `TPM auth value`.
        self.subject: Final = subject  # What it opens, as messages name it.
        self.name: Final = name  # The TPM Name in hexadecimal (TPM 2.0 Library, part 1, 16), or a hierarchy's name.
        self.risks_lockout: Final = risks_lockout  # Whether a wrong one counts towards the lockout.
        self.source: Final = source  # The attribute of the key URI's query that says where it is stored.
        self.file: Final = file  # The path of the key file, if it says that there is none; else empty.

    @property
    def was_empty(self) -> bool:
        """Whether the empty auth value was right before."""
        return bool(refusals.noted(f"tpm2-{self.name}.empty-is-right"))

    def keep_whether_empty(self, is_right: bool) -> None:
        """Keep whether the empty auth value is right. If it is not, the key file is not believed until it changes."""
        right, lying = f"tpm2-{self.name}.empty-is-right", f"tpm2-{self.name}.empty-is-wrong"
        if is_right:
            refusals.forget(lying)
            if not self.was_empty:
                refusals.note(right, "yes")
        else:
            refusals.forget(right)
            if self.file:
                with suppress(FileNotFoundError):
                    refusals.note(lying, change_stamp(self.file, os.stat(self.file)))

    @property
    def is_known_not_empty(self) -> bool:
        """Whether the empty auth value was wrong, the file says that it is right, and the file is unchanged since."""
        noted = refusals.noted(f"tpm2-{self.name}.empty-is-wrong") if self.file else ""
        with suppress(FileNotFoundError):
            return bool(noted) and noted == change_stamp(self.file, os.stat(self.file))
        return False

    @property
    def hint(self) -> str:
        """Where to give it."""
        flag = ", or the flag for its password" if self.source == "pin-source" else ""
        return f"{self.source}=file:/path in the key URI{flag}"


def guarded_hierarchy(name: str) -> Guarded:
    """Return what the auth value of a hierarchy opens, such as `owner`. Wrong ones do not count."""
    return Guarded(
        f"TPM {name} auth value", f"the {name} hierarchy", name, risks_lockout=False, source=f"{name}-pin-source"
    )


def auth_of(
    found: FoundPin | None, guarded: Guarded, *, allow_final_try: bool, missing: PinRequiredError | None = None
) -> Auth:
    """Return the auth value that was found, or the empty one; raise a PinError if it is too long for a TPM."""
    origin = UNSTATED if found is None else STORED if found.is_stored else TYPED
    value = (found.pin if found else "").encode("utf-8", "surrogateescape")
    if len(value) > _MAX_AUTH_BYTES:
        raise PinError(
            f"the {guarded.kind} for {guarded.subject} has more than {_MAX_AUTH_BYTES} bytes, so it was not sent",
            "Give the one that it was made with",
        )
    return Auth(value, origin, allow_final_try=allow_final_try, missing=missing, found=found)


def keep_refusal(name: str, kind: str, failures: int) -> None:
    """Keep for the next process that the TPM refused an auth value, of one of `_KINDS`, of what has a TPM Name.

    `failures` is how many wrong auth values the TPM counts, this one among them.
    """
    refusals.keep(f"tpm2-{name}.{kind}", failures)


def earlier_refusal(name: str, kind: str, failures: int) -> int | None:
    """Return the TPM's count at an earlier refusal that holds back an auth value of this kind; None if none does.

    A given one may be the answer to the refusal of another kind, so only its own kind holds it back. Refusals of every
    kind hold back the empty one that was not given. A refusal counts until the TPM counts fewer wrong auth values.
    """
    blocking = _KINDS if kind == UNSTATED else (kind,)
    counts = [refusal.failures for one in blocking for refusal in refusals.kept(f"tpm2-{name}.{one}")]
    return max((count for count in counts if count <= failures), default=None)


def is_held_back(tpm: TPM, guarded: Guarded) -> bool:
    """Return whether an earlier refusal, or the lack of a folder to keep one, holds back the empty auth value."""
    if not guarded.risks_lockout:
        return False
    if guarded.is_known_not_empty:
        return True
    if guarded.file and guarded.was_empty:
        return False
    lockout = tpm.lockout()
    refusals.forget(*[f"tpm2-{guarded.name}.{kind}" for kind in _KINDS], more_than=lockout.failures or -1)
    if not lockout.failures or lockout.left is None:
        return False
    return earlier_refusal(guarded.name, UNSTATED, lockout.failures) is not None or not refusals.has_place()


class AuthAttempt:
    """An auth value and what became of it."""

    def __init__(self, guarded: Guarded, auth: Auth) -> None:
        self.auth = auth
        self.is_proven = False  # Whether the TPM accepted it.
        self._guarded = guarded
        self._kind = UNSTATED if auth.origin == UNSTATED else "given" if auth.value else "given-empty"
        self._is_refused = False
        self._failures = 0  # How many wrong ones the TPM counted before this one.
        self._broke_off = False

    def another(self, found: FoundPin) -> AuthAttempt:
        """Return an attempt with another auth value, after this one was wrong."""
        auth = auth_of(found, self._guarded, allow_final_try=self.auth.allow_final_try)
        return AuthAttempt(self._guarded, auth)

    @property
    def is_guess(self) -> bool:
        """Whether it may be wrong, and would count."""
        return self._guarded.risks_lockout and not self.is_proven

    @contextmanager
    def sending(self, tpm: TPM) -> Iterator[None]:
        """Send the auth value in the body of the `with` statement, and keep whether it is right.

        Raises:
            PinLockedError: it may not be sent now.
            WrongPinError: it is wrong.
            PinRequiredError: the empty one was tried because no place gives one, and is wrong.
        """
        if not self.is_proven:
            self._check(tpm)
        try:
            yield
        except TSS2_Exception as error:
            if not is_answer(error) and self.is_guess and tpm.is_at_risk:
                # The TPM may have counted a wrong one: it has, if it counts more than before.
                self._broke_off = True
                keep_refusal(self._guarded.name, self._kind, self._failures + 1)
            elif code(error) in (AUTH_FAIL, BAD_AUTH):
                self.is_proven, self._is_refused = False, True
                raise self._wrong(tpm) from error
            else:
                self._forget_pending()
            raise
        except Exception:
            self._forget_pending()
            raise
        if not self.is_proven:
            self.is_proven = True
            if self._guarded.risks_lockout:
                # If the right one is not empty, the empty one is wrong and its refusals stay.
                wrong = ("given",) if self.auth.value else _KINDS
                refusals.forget(*[f"tpm2-{self._guarded.name}.{kind}" for kind in wrong])
                if not self.auth.value:
                    self._guarded.keep_whether_empty(is_right=True)

    def _check(self, tpm: TPM) -> None:
        if self._is_refused:
            raise self._not_again("was wrong before")
        if not self._guarded.risks_lockout:
            return
        lockout = tpm.lockout()
        if self._broke_off and lockout.failures > self._failures:
            raise self._not_again("was sent when the connection broke, and the TPM counts one more wrong one since")
        self._broke_off, self._failures = False, lockout.failures
        if self.auth.allow_final_try or lockout.left is None:
            return
        if not self.auth.value and self._guarded.file and self._guarded.was_empty:
            return  # In lockout, the TPM itself refuses.
        if self.auth.missing and lockout.left <= 1:
            raise self.auth.missing
        if not lockout.left:
            raise lockout.error(tpm.tcti, self._guarded.subject)
        if lockout.left == 1:
            raise PinLockedError(
                f"the TPM at {tpm.tcti} counts {lockout.failures} wrong auth values and locks at "
                f"{lockout.limit}, so none was sent for {self._guarded.subject}",
                f"{lockout.way_out}; --allow-final-pin-try sends it anyway",
            )
        if self.auth.origin != TYPED and lockout.failures:
            self._refuse_to_repeat(tpm, lockout)
        self._keep_pending()

    def _keep_pending(self) -> None:
        """Keep a refusal in case this process is killed now. It counts only if the TPM then counts more failures."""
        if self.auth.origin == STORED:
            refusals.warn_without_place(self._guarded.subject)
        keep_refusal(self._guarded.name, self._kind, self._failures + 1)

    def _forget_pending(self) -> None:
        if self.is_guess:
            refusals.forget(f"tpm2-{self._guarded.name}.{self._kind}", more_than=self._failures)

    def _refuse_to_repeat(self, tpm: TPM, lockout: Lockout) -> None:
        kind, subject, origin = self._guarded.kind, self._guarded.subject, self.auth.origin
        if not refusals.has_place():
            raise PinLockedError(
                f"the TPM at {tpm.tcti} counts {lockout.failures} wrong auth values, and no folder can keep "
                f"for which keys, so the {origin} one for {subject} was not sent",
                _held_back_hint(lockout.failures * lockout.interval),
            )
        earlier = earlier_refusal(self._guarded.name, self._kind, lockout.failures)
        if earlier is not None:
            raise PinLockedError(
                f"an earlier {kind} for {subject} was wrong, so the {origin} one was not sent",
                _held_back_hint((lockout.failures - max(earlier, 1) + 1) * lockout.interval),
            )

    def _not_again(self, why: str) -> PinLockedError:
        return PinLockedError(
            f"the {self._guarded.kind} for {self._guarded.subject} {why}, so it is not sent again",
            "Open the key again with the right one",
        )

    def _wrong(self, tpm: TPM) -> PinError:
        kind, subject = self._guarded.kind, self._guarded.subject
        left, may_ask_again = "", True
        if self._guarded.risks_lockout:
            if not self.auth.value:
                self._guarded.keep_whether_empty(is_right=False)
            lockout = tpm.lockout()
            keep_refusal(self._guarded.name, self._kind, lockout.failures)
            if lockout.left is not None:
                attempts = "attempt is" if lockout.left == 1 else "attempts are"
                left = f": {lockout.left} {attempts} left before the TPM locks"
                may_ask_again = lockout.left > 1
        if self.auth.missing:
            return self.auth.missing
        if self.auth.origin != UNSTATED:
            wrong = WrongPinError(f"wrong {kind} for {subject}{left}", "Check it, then retry")
        else:
            message = f"the {kind} of {subject} is not the empty one, which was tried{left}"
            wrong = WrongPinError(message, f"Give it: {self._guarded.hint}")
        wrong.may_ask_again = may_ask_again
        return wrong


def _held_back_hint(seconds: int) -> str:
    return (
        "Correct it and run once with --allow-final-pin-try, or let the TPM forget the failure: "
        f"run tpm2_dictionarylockout --clear-lockout, or wait {seconds} seconds"
    )


EARLIER_FAILED = "an earlier try failed"
_IF_EMPTY = "if it is empty, say so with --no-tpm-key-password"


def key_auth(uri: KeyURI, pins: PinSource, key: Guarded, *, wants_auth: bool, is_held_back: bool) -> Auth:
    """Return a key's auth value. One stored for this very key is used even if the key's file says that there is none.

    One that names no key, such as HWSIGNER_PIN, is not: if the file is right, it would be a wrong attempt. A file may
    be wrong the other way too: if no place gives the auth value that it claims, the empty one is sent once. A handle
    does not say whether it has one. The user is asked first, unless a wrong one does not count or the empty one was
    right before. `wants_auth` is whether the key's file says that it has one; `is_held_back`, whether the empty one was
    tried before, and is wrong.
    """
    request = PinRequest(key.kind, key.subject, EARLIER_FAILED if is_held_back else "")
    found, missing = None, None
    if wants_auth or is_held_back:
        try:
            found = pins.find(uri, request)
        except PinRequiredError as error:
            state = f": {request.state}" if request.state else ""
            missing = PinRequiredError(f"{error.message}{state}", f"{error.hint}; {_IF_EMPTY}")
            if is_held_back:
                raise missing from error
    else:
        is_handle = "path" not in uri.path
        pin = pins.stored(uri, request) if is_handle else pins.given(uri)
        found = None if pin is None else FoundPin(pin, is_stored=True)
        if found is None and is_handle and key.risks_lockout and not key.was_empty:
            typed = pins.prompt(request._replace(state=IF_ANY))
            found = None if typed is None else FoundPin(typed, is_stored=False, is_typed=True)
    return auth_of(found, key, allow_final_try=pins.allow_final_try, missing=missing)
