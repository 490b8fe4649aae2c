"""Keys as objects of a TPM, loaded for as long as they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPMS_CONTEXT,
    TPMT_PUBLIC,
    TSS2_Exception,
)

from hwsigner.backends import _tpm2_refusals as refusals
from hwsigner.backends._tpm2_connection import (
    AUTH_FAIL,
    BAD_AUTH,
    HANDLE,
    INTEGRITY,
    LOCKOUT,
    code,
    is_answer,
    read_lockout,
)
from hwsigner.backends._tss2 import HIERARCHIES, TSS2Key
from hwsigner.errors import KeyNotFoundError, PinLockedError, SigningKeyError, UnsupportedKeyError

_DAMAGED = "Restore the file, or make the key anew"
_ESYS_HIERARCHIES = {
    "owner": ESYS_TR.RH_OWNER,
    "null": ESYS_TR.RH_NULL,
    "endorsement": ESYS_TR.RH_ENDORSEMENT,
    "platform": ESYS_TR.RH_PLATFORM,
}
_STORAGE = TPMA_OBJECT(
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)


class KeyObject(Protocol):
    """A key that a TPM holds, or can load."""

    def public(self, tpm: ESAPI) -> TPMT_PUBLIC:
        """Return the public area, after making sure that the TPM has or takes the key."""
        ...

    def loaded(self, tpm: ESAPI) -> AbstractContextManager[ESYS_TR]:
        """Give the loaded key; afterwards it takes up no slot of the TPM."""
        ...


class PersistentObject:
    """A key at a persistent handle."""

    def __init__(self, handle: int, name: str) -> None:
        self._handle = handle
        self._name = name
        self._seen: tuple[ESAPI, ESYS_TR] | None = None

    def public(self, tpm: ESAPI) -> TPMT_PUBLIC:
        """Read the public area from the TPM.

        Raises:
            KeyNotFoundError: there is no key at the handle.
        """
        with self.loaded(tpm) as key:
            return tpm.read_public(key)[0].publicArea

    @contextmanager
    def loaded(self, tpm: ESAPI) -> Iterator[ESYS_TR]:
        """Give the key, which takes up no slot at any time."""
        if self._seen is None or self._seen[0] is not tpm:
            self._seen = tpm, self._find(tpm)
        yield self._seen[1]

    def _find(self, tpm: ESAPI) -> ESYS_TR:
        try:
            return tpm.tr_from_tpmpublic(self._handle)
        except TSS2_Exception as error:
            if code(error) != HANDLE:
                raise
            raise KeyNotFoundError(
                f"the TPM has no key at {self._name}", "tpm2_getcap handles-persistent lists those that it has"
            ) from error


class LoadableObject:
    """The key of a TSS2 file. Loaded through its parent once, and from a saved context after that."""

    def __init__(self, file: TSS2Key, name: str) -> None:
        self._name = name
        self._parent = file.parent
        self._public = _unmarshal(TPM2B_PUBLIC, file.public, name)
        self._private = _unmarshal(TPM2B_PRIVATE, file.private, name)
        self._saved: TPMS_CONTEXT | None = None

    def public(self, tpm: ESAPI) -> TPMT_PUBLIC:
        """Load the key for a moment, and return the public area.

        Raises:
            SigningKeyError: the TPM does not take the key.
            UnsupportedKeyError: the parent wants an auth value.
            PinLockedError: the TPM is in lockout, and its parent is subject to that.
        """
        with self.loaded(tpm):
            return self._public.publicArea

    @contextmanager
    def loaded(self, tpm: ESAPI) -> Iterator[ESYS_TR]:
        """Give the loaded key, and flush it."""
        key = self._restored(tpm) or self._load(tpm)
        try:
            if self._saved is None:
                self._saved = tpm.context_save(key)
            yield key
        finally:
            tpm.flush_context(key)

    def _restored(self, tpm: ESAPI) -> ESYS_TR | None:
        if self._saved is None:
            return None
        try:
            return tpm.context_load(self._saved)
        except TSS2_Exception as error:
            if not is_answer(error):
                raise
            self._saved = None  # A context does not outlive a reset of the TPM.
            return None

    def _load(self, tpm: ESAPI) -> ESYS_TR:
        """Load the key under its parent, which is flushed at once. No auth value of the key is sent by that."""
        try:
            if self._parent in HIERARCHIES:
                return self._load_in_hierarchy(tpm, _ESYS_HIERARCHIES[HIERARCHIES[self._parent]])
            return self._load_under(tpm, tpm.tr_from_tpmpublic(self._parent))
        except TSS2_Exception as error:
            refusal = self._load_error(tpm, error)
            if refusal is None:
                raise
            raise refusal from error

    def _load_under(self, tpm: ESAPI, parent: ESYS_TR) -> ESYS_TR:
        """Load the key under a persistent parent, which gets the empty auth value: once, where a wrong one counts."""
        name = bytes(tpm.tr_get_name(parent)).hex()
        failures = read_lockout(tpm).failures
        if failures and refusals.held_back(name, refusals.UNSTATED, failures) is not None:
            raise self._parent_error()
        try:
            key = tpm.load(parent, self._private, self._public)
        except TSS2_Exception as error:
            if code(error) == AUTH_FAIL:
                refusals.record(name, refusals.UNSTATED, read_lockout(tpm).failures)
            raise
        refusals.forget(name)
        return key

    def _load_in_hierarchy(self, tpm: ESAPI, hierarchy: ESYS_TR) -> ESYS_TR:
        for template in _TEMPLATES:
            primary = tpm.create_primary(None, template(), hierarchy)[0]
            try:
                return tpm.load(primary, self._private, self._public)
            except TSS2_Exception as error:
                refusal = error
                if code(error) != INTEGRITY:
                    raise
            finally:
                tpm.flush_context(primary)
        raise refusal

    @property
    def _parent_name(self) -> str:
        return HIERARCHIES.get(self._parent, hex(self._parent))

    def _parent_error(self) -> UnsupportedKeyError:
        return UnsupportedKeyError(
            f"the parent of key {self._name}, {self._parent_name}, wants an auth value of its own",
            "Make the key under a parent without one",
        )

    def _load_error(self, tpm: ESAPI, error: TSS2_Exception) -> SigningKeyError | None:
        parent = self._parent_name
        if code(error) in (AUTH_FAIL, BAD_AUTH):
            return self._parent_error()
        if code(error) == LOCKOUT:
            return PinLockedError(
                f"the TPM is in lockout, so key {self._name} can't be loaded under its parent, {parent}",
                read_lockout(tpm).way_out,
            )
        if code(error) == INTEGRITY:
            return SigningKeyError(
                f"the TPM does not take key {self._name} under its parent, {parent}",
                "It is the key of another TPM, of a TPM that was cleared, or of another parent; or it is damaged",
            )
        if code(error) == HANDLE:
            return KeyNotFoundError(f"the TPM has no parent {parent} for key {self._name}", "Make it persistent")
        return None


def _unmarshal(kind: type[TPM2B_PUBLIC | TPM2B_PRIVATE], data: bytes, name: str) -> TPM2B_PUBLIC | TPM2B_PRIVATE:
    try:
        structure, length = kind.unmarshal(data)
    except TSS2_Exception as error:
        raise UnsupportedKeyError(f"key {name} is damaged: {error}", _DAMAGED) from error
    if length != len(data):
        excess = len(data) - length
        raise UnsupportedKeyError(f"key {name} is damaged: its {kind.__name__} has {excess} bytes too many", _DAMAGED)
    return structure


def _template(kind: str, attributes: int = _STORAGE) -> TPM2B_PUBLIC:
    return TPM2B_PUBLIC.parse(f"{kind}:aes128cfb", objectAttributes=TPMA_OBJECT(attributes))


def _ecc_primary() -> TPM2B_PUBLIC:
    return _template("ecc256", _STORAGE | TPMA_OBJECT.NODA)


def _zeros_ecc_primary() -> TPM2B_PUBLIC:
    template = _ecc_primary()
    template.publicArea.unique.ecc.x = template.publicArea.unique.ecc.y = bytes(32)
    return template


# The primary keys that a hierarchy stands for, by likelihood. A TPM makes each from its seed, the last in seconds.
_TEMPLATES: tuple[Callable[[], TPM2B_PUBLIC], ...] = (
    _ecc_primary,  # The format's own; tpm2-openssl, tpm2-pytss
    _zeros_ecc_primary,  # TCG's provisioning guidance; systemd
    lambda: _template("ecc256"),  # tpm2_createprimary -G ecc
    lambda: _template("rsa2048"),  # tpm2_createprimary
)
