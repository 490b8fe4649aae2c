"""The auth values of a key, and of what stands above it: its parent, or the hierarchy of a primary key.

Each comes from the PIN mechanism, from places of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

from tpm2_pytss import ESYS_TR

from hwsigner.backends.tpm2.attempts import UNSTATED, Auth, Lock, Proof, auth_of, is_held_back
from hwsigner.backends.tpm2.connection import TPM, AuthWantedError
from hwsigner.errors import PinRequiredError, WrongPinError
from hwsigner.pins import FoundPin, PinRequest, PinSource
from hwsigner.uri import KeyURI

_T = TypeVar("_T")
_EARLIER_FAILED = "an earlier try failed"
_IF_EMPTY = "if it is empty, say so with --no-tpm-key-password"


def key_lock(subject: str, name: str, *, guarded: bool) -> Lock:
    """Return what the auth value of a key opens.

    Args:
        subject: the key, as messages name it.
        name: its TPM Name in hexadecimal.
        guarded: whether a wrong auth value counts towards the TPM's lockout.
    """
    hint = "pin-source=file:/path in the key URI, or the flag for its password"
    return Lock("TPM auth value", subject, name, guarded, hint)


def key_auth(uri: KeyURI, pins: PinSource, lock: Lock, *, wants_auth: bool, is_held_back: bool) -> Auth:
    """Return a key's auth value. One stored for this key counts for more than a file that says that there is none.

    One that names no key, such as HWSIGNER_PIN, does not: where the file is right, it would be a wrong try. A file may
    be wrong the other way too: where no place gives the auth value that it claims, the empty one is tried, once.

    Args:
        uri: the key's URI.
        pins: where the auth value comes from.
        lock: the key.
        wants_auth: whether its file says that it has one.
        is_held_back: whether the empty one was tried before, and is wrong.

    Raises:
        PinRequiredError: no place gives one.
        PinError: it is longer than a TPM's can be, or can't be read.
    """
    request = PinRequest(lock.kind, lock.subject, _EARLIER_FAILED if is_held_back else "")
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
        pin = pins.given(uri) if "path" in uri.path else pins.stored(uri, request)
        found = None if pin is None else FoundPin(pin, is_stored=True)
    return auth_of(found, lock, allow_final_try=pins.allow_final_try, missing=missing)


class Above(NamedTuple):
    """What stands above a key, and may want an auth value of its own.

    Attributes:
        kind: `parent`, or the hierarchy: `owner`, `endorsement`, `platform`.
        name: as messages name it.
        id: the TPM Name in hexadecimal, or the hierarchy's name.
        guarded: whether a wrong auth value counts towards the TPM's lockout.
    """

    kind: str
    name: str
    id: str
    guarded: bool


class ParentAuth:
    """The auth values of what stands above a key: the stored one, else the empty one, and a person's if that is wrong.

    Args:
        uri: the key's URI: the query's `parent-pin-source` and `owner-pin-source`.
        pins: the places of the key's own auth value. What is stored there for the key is not sent to anything else.
    """

    def __init__(self, uri: KeyURI, pins: PinSource) -> None:
        self._uri = uri
        self._pins = pins.without_pin()
        self._proofs: dict[str, Proof] = {}

    def proven(self, tpm: TPM, handle: ESYS_TR, above: Above, work: Callable[[ESYS_TR], _T]) -> _T:
        """Return what a command returns that an auth value authorizes.

        Args:
            tpm: the TPM.
            handle: what stands above the key.
            above: how it is called, and guarded.
            work: the command; its argument is the session that proves the auth value.

        Raises:
            AuthWantedError: it must be asked for.
            PinError: the auth value is missing, wrong, or may not be sent now.
            TSS2_Exception: the command failed for another reason.
        """
        lock = _lock_of(above)
        proof = self._proofs.get(above.id) or self._first(tpm, lock, above)
        try:
            with proof.attempt(tpm):
                session = tpm.authorize(handle, proof.auth.value)
                tpm.is_at_risk = tpm.is_at_risk or proof.is_guess
                return work(session)
        except WrongPinError:
            if proof.auth.origin != UNSTATED:
                raise
            raise AuthWantedError(lambda: self._ask(above, lock, "")) from None

    def _first(self, tpm: TPM, lock: Lock, above: Above) -> Proof:
        stored = self._pins.given(_source(self._uri, above))
        if stored is None and is_held_back(tpm, lock):
            raise AuthWantedError(lambda: self._ask(above, lock, _EARLIER_FAILED))
        found = None if stored is None else FoundPin(stored, is_stored=True)
        return self._kept(above, lock, found)

    def _ask(self, above: Above, lock: Lock, state: str) -> None:
        try:
            found = self._pins.find(_source(self._uri, above), PinRequest(lock.kind, lock.subject, state))
        except PinRequiredError as error:
            raise PinRequiredError(
                f"{lock.subject} wants its {lock.kind} and there is no place to take it from",
                f"Add {lock.hint}, or run from a terminal or where a pinentry can ask",
            ) from error
        self._kept(above, lock, found)

    def _kept(self, above: Above, lock: Lock, found: FoundPin | None) -> Proof:
        proof = Proof(lock, auth_of(found, lock, allow_final_try=self._pins.allow_final_try))
        self._proofs[above.id] = proof
        return proof


def _lock_of(above: Above) -> Lock:
    hint = f"{above.kind}-pin-source=file:/path in the key URI"
    return Lock(f"TPM {above.kind} auth value", above.name, above.id, above.guarded, hint)


def _source(uri: KeyURI, above: Above) -> KeyURI:
    """Return the URI with what is stored for the parent in the place of what is stored for the key."""
    query = {name: value for name, value in uri.query.items() if name != "pin-source"}
    source = query.get(f"{above.kind}-pin-source")
    return replace(uri, query=query if source is None else {**query, "pin-source": source}, pin_value=None)
