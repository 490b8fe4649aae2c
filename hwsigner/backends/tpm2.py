"""Keys of a TPM 2.0: TSS2 PRIVATE KEY files, and persistent handles.

A TPM has no login. The auth value goes with each signature, and it is the first one that shows whether it is right.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal

from tpm2_pytss import ESAPI, TSS2_Exception

from hwsigner.backends import _tpm2_refusals as refusals
from hwsigner.backends._blocks import read_contents
from hwsigner.backends._tpm2_connection import (
    AUTH_FAIL,
    BAD_AUTH,
    HASH,
    LOCKOUT,
    SCHEME,
    Connection,
    Lockout,
    code,
    read_lockout,
    tcti_of,
)
from hwsigner.backends._tpm2_objects import KeyObject, LoadableObject, PersistentObject
from hwsigner.backends._tpm2_public import PublicArea, read_public_area
from hwsigner.backends._tss2 import TSS2Key, parse_tss2
from hwsigner.errors import (
    AmbiguousKeyError,
    KeyNotFoundError,
    PinError,
    PinLockedError,
    PinRequiredError,
    SigningKeyError,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.key import Algorithm, HashName, Key
from hwsigner.pin import FoundPin, PinRequest, PinSource
from hwsigner.uri import KeyURI

_HANDLE = re.compile(r"0[xX]81[0-9a-fA-F]{6}")
_LABEL = "TSS2 PRIVATE KEY"
_MAX_AUTH_BYTES = 64  # TPM2B_AUTH holds the longest digest (TPM 2.0 Library, part 2, 10.4.5).
_IF_EMPTY = "if it is empty, say so with --no-tpm-key-password"

# Where an auth value comes from: a stored place, a person, or nowhere, which makes it the empty one.
_Origin = Literal["stored", "typed", "unstated"]
_STORED: _Origin = "stored"
_TYPED: _Origin = "typed"
_UNSTATED: _Origin = "unstated"


@dataclass(frozen=True)
class _Auth:
    """The auth value to send.

    Attributes:
        value: its bytes.
        origin: where it comes from.
        allow_final_try: send it even where one more wrong one locks the TPM.
    """

    value: bytes = field(repr=False)
    origin: _Origin
    allow_final_try: bool

    @property
    def kind(self) -> refusals.Kind:
        """What its refusal is kept as."""
        if self.origin == _UNSTATED:
            return refusals.UNSTATED
        return refusals.GIVEN if self.value else refusals.GIVEN_EMPTY


def open_key(uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> Key:
    """Open the key that a `tpm2:` URI names, and make sure that the TPM has it.

    The auth value is the PIN. Without one, a file that says so has the empty one, and so has a handle; otherwise, and
    where the TPM refused the empty one and counts that still, it is asked for.

    Args:
        uri: either `handle`, from 0x81000000 to 0x81ffffff, or `path`; the query's `tcti` and `pin-source`.
        pins: where the auth value comes from.
        public_key: not used; a URI names one key.

    Raises:
        UsageError: the URI names neither a handle nor a file, or has an attribute that is not known here.
        BackendUnavailableError: the TPM can't be reached.
        KeyNotFoundError: there is nothing at the handle, or no such file.
        UnsupportedKeyError: the key is of a kind that can't be used, or the file is none.
        PinRequiredError: the key has an auth value and no place gives it.
        PinLockedError: the TPM is in lockout, and the key's parent is subject to that.
        PinError: the auth value is longer than a TPM's can be.
    """
    uri.require_known(frozenset({"handle", "path"}), frozenset({"tcti"}))
    subject, file, key = _named(uri)
    connection = Connection(tcti_of(uri), subject)
    try:
        with connection.use() as tpm:
            public = read_public_area(key.public(tpm), subject)
            failed = not pins.allow_final_try and _is_held_back(tpm, public, refusals.UNSTATED)
        wants_auth = failed or (file is not None and not file.empty_auth)
        request = PinRequest("TPM auth value", subject, "an earlier try failed" if failed else "")
        auth = _auth(uri, pins, request, wants_auth=wants_auth, guarded=public.guarded)
        return TPMKey(connection, key, public, auth, subject=subject)
    except BaseException:
        connection.close()
        raise


class TPMKey(Key):
    """A key in a TPM. It has a connection of its own, and a slot of the TPM only while it signs."""

    def __init__(
        self, connection: Connection, key: KeyObject, public: PublicArea, auth: _Auth, *, subject: str
    ) -> None:
        self._connection = connection
        self._key = key
        self._public = public
        self._auth = auth
        self._subject = subject
        self._is_proven = False
        self._is_refused = False

    def __repr__(self) -> str:
        return f"<TPMKey {self._subject}>"

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the key's type."""
        return self._public.algorithm

    def public_key(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo, from the public area."""
        return self._public.public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message, whose digest is made here.

        Raises:
            UnsupportedKeyError: the key or the TPM does not sign with this hash.
            WrongPinError: the auth value is wrong; it was sent once, and this key does not send it again.
            PinLockedError: nothing was sent: the TPM is in lockout, or one more wrong auth value would put it there, or
                an earlier one was wrong and this one is stored.
            SigningKeyError: the key is closed, or the TPM refused it; what it says is in the message.
        """
        if self._public.only_hash not in (None, hash):
            raise UnsupportedKeyError(
                f"key {self._subject} signs with {self._public.only_hash} only, not {hash}", "Ask for that hash"
            )
        digest = hashlib.new(hash, message).digest()
        # From the look at earlier refusals to the record of this one, no other process may try.
        with self._connection.use(exclusive=self._public.guarded and not self._is_proven) as tpm:
            if not self._is_proven:
                self._refuse_to_guess(tpm)
            try:
                signature = self._sign(tpm, digest, hash)
            except TSS2_Exception as error:
                refusal = self._refusal(tpm, error, hash)
                if refusal is None:
                    raise
                raise refusal from error
            self._prove()
        return signature

    def close(self) -> None:
        """Close the connection to the TPM."""
        self._connection.close()

    def _sign(self, tpm: ESAPI, digest: bytes, hash: HashName) -> bytes:
        with self._key.loaded(tpm) as handle:
            tpm.tr_set_auth(handle, self._auth.value)
            return bytes(tpm.sign(handle, digest, self._public.scheme(hash)))

    def _refuse_to_guess(self, tpm: ESAPI) -> None:
        if self._is_refused:
            raise PinLockedError(
                f"the TPM auth value for {self._subject} was wrong before, and is not sent again",
                "Open the key again with the right one",
            )
        if not self._public.guarded or self._auth.allow_final_try:
            return
        lockout = read_lockout(tpm)
        if lockout.left is not None and lockout.left <= 1:
            raise PinLockedError(
                f"the TPM at {self._connection.tcti} counts {lockout.failures} wrong auth values and locks at "
                f"{lockout.limit}, so none was sent for {self._subject}",
                f"{lockout.way_out}; --allow-final-pin-try sends it nonetheless",
            )
        if self._auth.origin == _TYPED or not lockout.failures or lockout.left is None:
            return
        earlier = refusals.held_back(self._public.name, self._auth.kind, lockout.failures)
        if earlier is not None:
            raise PinLockedError(
                f"an earlier TPM auth value for {self._subject} was wrong, so the {self._auth.origin} one was not sent",
                _held_back_hint((lockout.failures - max(earlier, 1) + 1) * lockout.interval),
            )
        if not refusals.has_place():
            raise PinLockedError(
                f"the TPM at {self._connection.tcti} counts {lockout.failures} wrong auth values and no folder can "
                f"keep for which keys, so the {self._auth.origin} one for {self._subject} was not sent",
                _held_back_hint(lockout.failures * lockout.interval),
            )

    def _prove(self) -> None:
        if not self._is_proven and self._public.guarded:
            refusals.forget(self._public.name)
        self._is_proven = True

    def _refusal(self, tpm: ESAPI, error: TSS2_Exception, hash: HashName) -> SigningKeyError | None:
        reason = code(error)
        if reason in (AUTH_FAIL, BAD_AUTH):
            self._is_proven, self._is_refused = False, True
            return self._wrong_auth(tpm)
        if reason == LOCKOUT:
            return PinLockedError(
                f"the TPM at {self._connection.tcti} is in lockout, so {self._subject} can't be used",
                read_lockout(tpm).way_out,
            )
        if reason in (HASH, SCHEME):
            return UnsupportedKeyError(f"the TPM does not sign with {hash} and key {self._subject}", "Use another hash")
        return None

    def _wrong_auth(self, tpm: ESAPI) -> WrongPinError:
        left = ""
        if self._public.guarded:
            lockout = read_lockout(tpm)
            refusals.record(self._public.name, self._auth.kind, lockout.failures)
            left = _tries_left(lockout)
        if self._auth.origin != _UNSTATED:
            return WrongPinError(f"wrong TPM auth value for {self._subject}{left}", "Check it before another try")
        return WrongPinError(
            f"the TPM auth value of {self._subject} is not the empty one, which was tried{left}",
            "Give it: pin-source=file:/path in the key URI, or the flag for its password",
        )


def _named(uri: KeyURI) -> tuple[str, TSS2Key | None, KeyObject]:
    """Return what a URI names: its name for messages, the file if it is one, and the key."""
    if len(uri.path) != 1:
        raise UsageError(f"{uri.name} needs one of handle= and path=", "Write tpm2:handle=0x81000001 or tpm2:path=FILE")
    handle = uri.text("handle")
    if handle is None:
        file = _read_file(uri.file)
        return uri.file, file, LoadableObject(file, uri.file)
    if not _HANDLE.fullmatch(handle):
        raise UsageError(f"{uri.name} has no persistent handle", "Write one from 0x81000000 to 0x81ffffff")
    name = f"handle:{int(handle, 16):#010x}"
    return name, None, PersistentObject(int(handle, 16), name)


def _read_file(path: str) -> TSS2Key:
    keys = [block for block in read_contents(path, KeyNotFoundError).blocks if block.label.endswith("PRIVATE KEY")]
    blocks = [block for block in keys if block.label == _LABEL]
    if blocks and len(keys) > 1:
        raise AmbiguousKeyError(f"{path} holds {len(keys)} private keys", "Keep each in a file of its own")
    if not blocks:
        raise UnsupportedKeyError(f"{path} holds no {_LABEL}", "Name a key file of a TPM")
    return parse_tss2(blocks[0].data, path)


def _is_held_back(tpm: ESAPI, public: PublicArea, kind: refusals.Kind) -> bool:
    """Return whether an earlier refusal, or there being no place to keep one, holds back such an auth value."""
    if not public.guarded:
        return False
    lockout = read_lockout(tpm)
    refusals.forget(public.name, lockout.failures)
    if not lockout.failures or lockout.left is None:
        return False
    return refusals.held_back(public.name, kind, lockout.failures) is not None or not refusals.has_place()


def _held_back_hint(seconds: int) -> str:
    return (
        "Correct it and run once with --allow-final-pin-try, or let the TPM forget the failure: "
        f"run tpm2_dictionarylockout --clear-lockout, or wait {seconds} seconds"
    )


def _auth(uri: KeyURI, pins: PinSource, request: PinRequest, *, wants_auth: bool, guarded: bool) -> _Auth:
    """Return the auth value to send. One stored for this key counts for more than a file that says that there is none.

    One that names no key, such as HWSIGNER_PIN, does not: where the file is right, it would be a wrong try.
    """
    if wants_auth:
        found = _found(uri, pins, request, guarded=guarded)
    else:
        pin = pins.given(uri, request) if "path" in uri.path else pins.stored(uri, request)
        found = None if pin is None else FoundPin(pin, is_stored=True)
    origin = _UNSTATED if found is None else _STORED if found.is_stored else _TYPED
    value = (found.pin if found else "").encode("utf-8", "surrogateescape")
    if len(value) > _MAX_AUTH_BYTES:
        raise PinError(
            f"the TPM auth value for {request.subject} has more than {_MAX_AUTH_BYTES} bytes, so it was not sent",
            "Give the one that the key was made with",
        )
    return _Auth(value, origin, pins.allow_final_try)


def _found(uri: KeyURI, pins: PinSource, request: PinRequest, *, guarded: bool) -> FoundPin | None:
    try:
        return pins.find(uri, request)
    except PinRequiredError as error:
        if guarded:
            state = f": {request.state}" if request.state else ""
            raise PinRequiredError(f"{error.message}{state}", f"{error.hint}; {_IF_EMPTY}") from error
        return None  # A try with the empty one costs nothing.


def _tries_left(lockout: Lockout) -> str:
    if lockout.left is None:
        return ""
    return f": {lockout.left} {'try is' if lockout.left == 1 else 'tries are'} left before the TPM locks"
