"""Keys as objects of a TPM, loaded for as long as they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMT_PUBLIC,
    TPMT_SYM_DEF_OBJECT,
    TSS2_Exception,
)

from hwsigner.backends.tpm2.auth import ParentAuth
from hwsigner.backends.tpm2.context import TPM
from hwsigner.backends.tpm2.errors import HANDLE, OTHER_PARENT, code, is_lost
from hwsigner.backends.tpm2.key_file import TSS2Key
from hwsigner.backends.tpm2.parents import parent_of
from hwsigner.backends.tpm2.policy import Policy, read_policy
from hwsigner.errors import KeyNotFoundError, SigningKeyError, UnsupportedKeyError

_DAMAGED = "Restore the file, or make the key anew"
_Structure = TypeVar("_Structure", TPM2B_ENCRYPTED_SECRET, TPM2B_PRIVATE, TPM2B_PUBLIC)


class KeyObject(Protocol):
    """A key that a TPM holds, or can load."""

    @property
    def takes_auth(self) -> bool:
        """Whether its auth value may be proven for a use: not so where its policy does without."""
        ...

    @property
    def needs_auth(self) -> bool:
        """Whether its auth value must be proven for a use: not so where its policy can do without."""
        ...

    def public(self, tpm: TPM) -> TPMT_PUBLIC:
        """Return the public area, after making sure that the TPM has or takes the key."""
        ...

    def loaded(self, tpm: TPM) -> AbstractContextManager[ESYS_TR]:
        """Give the loaded key; afterwards it takes up no slot of a TPM that has no resource manager."""
        ...

    def session(self, tpm: TPM, handle: ESYS_TR, auth: bytes) -> AbstractContextManager[ESYS_TR]:
        """Give the session that authorizes a use of the loaded key.

        Args:
            tpm: the TPM.
            handle: the loaded key.
            auth: its auth value.
        """
        ...


class PersistentObject:
    """A key at a persistent handle."""

    def __init__(self, handle: int, name: str) -> None:
        self._handle = handle
        self._name = name
        self._policy: Policy | None = None
        self._tpm_name = b""
        self._seen: tuple[TPM, ESYS_TR] | None = None

    @property
    def takes_auth(self) -> bool:
        """See `KeyObject`."""
        return True

    @property
    def needs_auth(self) -> bool:
        """See `KeyObject`."""
        return True

    def public(self, tpm: TPM) -> TPMT_PUBLIC:
        """Read the public area from the TPM.

        Raises:
            KeyNotFoundError: there is no key at the handle.
            UnsupportedKeyError: it has a policy other than that of its auth value.
        """
        with self.loaded(tpm) as key:
            public = tpm.esys.read_public(key)[0].publicArea
        self._policy = read_policy(public, None, self._name)
        return public

    @contextmanager
    def loaded(self, tpm: TPM) -> Iterator[ESYS_TR]:
        """Give the key, which takes up no slot at any time."""
        if self._seen is None or self._seen[0] is not tpm:
            self._seen = tpm, self._find(tpm)
        try:
            yield self._seen[1]
        except TSS2_Exception as error:
            if is_lost(error):
                self._seen = None
            raise

    def session(self, tpm: TPM, handle: ESYS_TR, auth: bytes) -> AbstractContextManager[ESYS_TR]:
        """See `KeyObject`."""
        return _session(tpm, self._policy, handle, auth)

    def _find(self, tpm: TPM) -> ESYS_TR:
        try:
            found = tpm.esys.tr_from_tpmpublic(self._handle)
        except TSS2_Exception as error:
            if code(error) != HANDLE:
                raise
            raise KeyNotFoundError(
                f"the TPM has no key at {self._name}", "tpm2_getcap handles-persistent lists those that it has"
            ) from error
        tpm_name = bytes(tpm.esys.tr_get_name(found))
        if tpm_name != (self._tpm_name or tpm_name):
            tpm.esys.tr_close(found)  # Its auth value is another one, too.
            raise KeyNotFoundError(f"the TPM has another key at {self._name} than before", "Open it again")
        self._tpm_name = tpm_name
        return found


class LoadableObject:
    """The key of a TSS2 file, loaded or imported under its parent once.

    Args:
        file: what the file says.
        name: what to call the key in messages.
        auth: gives the auth value of its parent, or of its parent's hierarchy, where there is one.

    Raises:
        UnsupportedKeyError: the file is damaged, or the key's policy can't be satisfied here.
    """

    def __init__(self, file: TSS2Key, name: str, auth: ParentAuth) -> None:
        self._name = name
        self._parent = parent_of(file, name, auth)
        self._public = unmarshal(TPM2B_PUBLIC, file.public, name)
        self._private = unmarshal(TPM2B_PRIVATE, file.private, name)
        self._secret = unmarshal(TPM2B_ENCRYPTED_SECRET, file.secret, name) if file.secret else None
        self._policy = read_policy(self._public.publicArea, file, name)

    @property
    def tpm_name(self) -> bytes:
        """The key's TPM Name (TPM 2.0 Library, part 1, 16); empty where its hash is not known here."""
        try:
            return bytes(self._public.get_name())
        except ValueError:
            return b""

    @property
    def takes_auth(self) -> bool:
        """See `KeyObject`."""
        return self._policy is None or self._policy.takes_auth

    @property
    def needs_auth(self) -> bool:
        """See `KeyObject`."""
        return self._policy is None or self._policy.needs_auth

    def public(self, tpm: TPM) -> TPMT_PUBLIC:
        """Load the key, and return the public area.

        Raises:
            SigningKeyError: the TPM does not take the key.
            KeyNotFoundError: the TPM has no such parent.
            PinError: the auth value of the parent, or of its hierarchy, is missing, wrong or locked.
        """
        with self.loaded(tpm):
            return self._public.publicArea

    def loaded(self, tpm: TPM) -> AbstractContextManager[ESYS_TR]:
        """See `KeyObject`. Raises as `public`."""
        return tpm.loaded(self, lambda: self._load(tpm))

    def session(self, tpm: TPM, handle: ESYS_TR, auth: bytes) -> AbstractContextManager[ESYS_TR]:
        """See `KeyObject`."""
        return _session(tpm, self._policy, handle, auth)

    def _load(self, tpm: TPM) -> ESYS_TR:
        try:
            return self._parent.load(tpm, lambda parent, session: self._load_under(tpm, parent, session))
        except TSS2_Exception as error:
            if code(error) not in OTHER_PARENT:
                raise
            raise SigningKeyError(
                f"the TPM does not take key {self._name} under its parent, {self._parent.name}",
                "It is the key of another TPM, of a TPM that was cleared, or of another parent; or it is damaged",
            ) from error

    def _load_under(self, tpm: TPM, parent: ESYS_TR, session: ESYS_TR) -> ESYS_TR:
        private = self._private
        if self._secret is not None:
            no_cipher = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
            private = tpm.esys.import_(parent, b"", self._public, private, self._secret, no_cipher, session1=session)
        key = tpm.esys.load(parent, private, self._public, session1=session)
        # What was imported is loaded from now on, as the draft asks for: an import takes the TPM long.
        self._private, self._secret = private, None
        return key


def _session(tpm: TPM, policy: Policy | None, handle: ESYS_TR, auth: bytes) -> AbstractContextManager[ESYS_TR]:
    if policy is not None:
        return policy.session(tpm, handle, auth)
    return nullcontext(tpm.authorize(handle, auth))


def unmarshal(kind: type[_Structure], data: bytes, name: str) -> _Structure:
    """Read a part of a key.

    Raises:
        UnsupportedKeyError: it is damaged.
    """
    try:
        structure, length = kind.unmarshal(data)
    except TSS2_Exception as error:
        raise UnsupportedKeyError(f"key {name} is damaged: {error}", _DAMAGED) from error
    if length != len(data):
        excess = len(data) - length
        raise UnsupportedKeyError(f"key {name} is damaged: its {kind.__name__} has {excess} bytes too many", _DAMAGED)
    return structure
