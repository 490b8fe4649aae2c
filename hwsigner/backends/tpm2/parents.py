"""The parents of keys: persistent storage keys, and the primary keys of hierarchies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from tpm2_pytss import ESYS_TR, TPM2B_PUBLIC, TPMA_OBJECT, TSS2_Exception

from hwsigner.backends.tpm2 import templates
from hwsigner.backends.tpm2.auth import Above, ParentAuth
from hwsigner.backends.tpm2.context import TPM
from hwsigner.backends.tpm2.errors import HANDLE, OTHER_PARENT, code
from hwsigner.backends.tpm2.key_file import HIERARCHIES, TSS2Key
from hwsigner.errors import KeyNotFoundError

# Takes a parent and the session that proves its auth value, and returns what was loaded under it.
Load = Callable[[ESYS_TR, ESYS_TR], ESYS_TR]
# The length of an importable key's secret tells the kind of key that it is encrypted to.
_RSA_SECRET = 2 + 256


class Parent(Protocol):
    """What keys are loaded under.

    Attributes:
        name: its name for messages: `owner`, or `0x81000001`.
    """

    name: str

    def load(self, tpm: TPM, load: Load) -> ESYS_TR:
        """Load a key under it, and return the key.

        Raises:
            KeyNotFoundError: the TPM has no such parent.
            PinError: its auth value is missing, wrong or locked.
            TSS2_Exception: the TPM refused.
        """
        ...


def parent_of(file: TSS2Key, key: str, auth: ParentAuth) -> Parent:
    """Return the parent that the file of a key names."""
    if file.parent not in HIERARCHIES:
        return PersistentParent(file.parent, key, auth)
    if file.rsa_parent or len(file.secret) == _RSA_SECRET:
        candidates = templates.RSA
    else:
        candidates = templates.ECC if file.secret else templates.ANY
    return Hierarchy(HIERARCHIES[file.parent], candidates, auth)


class PersistentParent:
    """A storage key at a persistent handle."""

    def __init__(self, handle: int, key: str, auth: ParentAuth) -> None:
        self.name = f"{handle:#010x}"
        self._handle = handle
        self._key = key
        self._auth = auth

    def load(self, tpm: TPM, load: Load) -> ESYS_TR:
        """See `Parent`."""
        parent = self._found(tpm)
        try:
            attributes = tpm.esys.read_public(parent)[0].publicArea.objectAttributes
            name = bytes(tpm.esys.tr_get_name(parent)).hex()
            above = Above("parent", self.name, name, guarded=not attributes & TPMA_OBJECT.NODA)
            return self._auth.proven(tpm, parent, above, lambda session: load(parent, session))
        finally:
            tpm.esys.tr_close(parent)

    def _found(self, tpm: TPM) -> ESYS_TR:
        try:
            return tpm.esys.tr_from_tpmpublic(self._handle)
        except TSS2_Exception as error:
            if code(error) != HANDLE:
                raise
            raise KeyNotFoundError(
                f"the TPM has no parent {self.name} for key {self._key}",
                "tpm2_getcap handles-persistent lists what it has",
            ) from error


class Hierarchy:
    """A hierarchy, one of whose primary keys is the parent.

    Args:
        name: `owner`, `endorsement`, `platform` or `null`.
        candidates: the templates of the primary keys, the likeliest first.
        auth: for the hierarchy's auth value. The primary keys have the empty one.
    """

    def __init__(self, name: str, candidates: tuple[Callable[[], TPM2B_PUBLIC], ...], auth: ParentAuth) -> None:
        self.name = name
        self._handle = templates.ESYS_HIERARCHIES[name]
        self._candidates = candidates
        self._auth = auth

    def load(self, tpm: TPM, load: Load) -> ESYS_TR:
        """See `Parent`."""
        for candidate in self._candidates:
            with tpm.temporary(partial(self._primary, tpm, candidate())) as primary:
                try:
                    return load(primary, ESYS_TR.PASSWORD)
                except TSS2_Exception as error:
                    refusal = error
                    if code(error) not in OTHER_PARENT:
                        raise
        raise refusal

    def _primary(self, tpm: TPM, template: TPM2B_PUBLIC) -> ESYS_TR:
        above = Above(self.name, self.name, self.name, guarded=False)
        handle = self._handle

        def create(session: ESYS_TR) -> ESYS_TR:
            return tpm.esys.create_primary(None, template, handle, session1=session)[0]

        return self._auth.proven(tpm, handle, above, create)
