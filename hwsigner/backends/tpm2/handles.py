"""Persistent handles of the owner: which ones keys may have, what is there, and putting keys there or removing them."""

from __future__ import annotations

from tpm2_pytss import ESYS_TR, TSS2_Exception

from hwsigner.backends.tpm2.errors import HANDLE, NV_DEFINED, NV_SPACE, code
from hwsigner.backends.tpm2.objects import ParentAuth
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.backends.tpm2.uris import handle_name
from hwsigner.errors import SigningKeyError, UsageError

_PLATFORM = range(0x81800000, 0x82000000)  # TPM 2.0 Library, part 2, 7.4.
# TCG's Registry of Reserved TPM 2.0 Handles and Localities, 2.3.1.
EK_HANDLES = range(0x81010000, 0x81020000)
_RESERVED = {"storage root keys": range(0x81000000, 0x81000100), "endorsement keys": EK_HANDLES}


def check_own_handle(handle: int) -> None:
    """Raise a UsageError if a persistent handle is the platform's, or reserved for storage root or endorsement keys."""
    whose = next((whose for whose, handles in _RESERVED.items() if handle in handles), "")
    if handle in _PLATFORM:
        whose = "the platform's firmware"
    if whose:
        raise UsageError(f"{handle_name(handle)} is reserved for {whose}", "Use one from 0x81000100 to 0x8100ffff")


def name_at(tpm: TPM, handle: int) -> bytes:
    """Return the TPM Name of the object at a persistent handle, or empty bytes if there is none."""
    try:
        found = tpm.esys.tr_from_tpmpublic(handle)
    except TSS2_Exception as error:
        if code(error) != HANDLE:
            raise
        return b""
    name = bytes(tpm.esys.tr_get_name(found))
    tpm.esys.tr_close(found)
    return name


def check_free(tpm: TPM, handle: int) -> None:
    """Raise a SigningKeyError if something is at a persistent handle."""
    if name_at(tpm, handle):
        raise _taken(handle)


def persist(tpm: TPM, auth: ParentAuth, loaded: ESYS_TR, name: bytes, handle: int) -> None:
    """Put a loaded key at a persistent handle, unless it is there already, as after an answer that was lost.

    If another key is there, or the TPM has no room, that is a SigningKeyError.
    """
    there = name_at(tpm, handle)
    if there == name:
        return
    if there:
        raise _taken(handle)
    try:
        _evict_control(tpm, auth, loaded, handle)
    except TSS2_Exception as error:
        if code(error) == NV_DEFINED:
            raise _taken(handle) from error
        if code(error) == NV_SPACE:
            raise SigningKeyError(
                "the TPM has no room for another key at a handle",
                "Make it in a file (tpm2:path=FILE), or delete a key that hwsigner list shows at a handle",
            ) from error
        raise


def remove(tpm: TPM, auth: ParentAuth, name: bytes, handle: int) -> None:
    """Remove a key from a persistent handle, unless it is gone already.

    Another key that is there now stays, which is a SigningKeyError.
    """
    there = name_at(tpm, handle)
    if not there:
        return
    if there != name:
        subject = handle_name(handle)
        raise SigningKeyError(
            f"another key is at {subject} now, so it was not deleted", f"Run hwsigner show {subject}, then retry"
        )
    found = tpm.esys.tr_from_tpmpublic(handle)
    try:
        _evict_control(tpm, auth, found, handle)
    except BaseException:
        tpm.esys.tr_close(found)
        raise


def _evict_control(tpm: TPM, auth: ParentAuth, key: ESYS_TR, handle: int) -> None:
    made = auth.as_owner(tpm, tpm.esys.evict_control, ESYS_TR.RH_OWNER, key, handle)
    if made != ESYS_TR.NONE:
        tpm.esys.tr_close(made)


def _taken(handle: int) -> SigningKeyError:
    name = handle_name(handle)
    return SigningKeyError(
        f"the TPM has a key at {name} already", f"Choose another handle, or see hwsigner show {name}"
    )
