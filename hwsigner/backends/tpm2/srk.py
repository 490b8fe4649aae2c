"""The storage root key (SRK) that sessions are salted with, and its Name, pinned on first use.

Something between us and the TPM could offer a key of its own, and read what is encrypted to it. So the Name (a hash of
the public area) must be what it was before, for each TPM and parent.
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_PUBLIC, TPMA_OBJECT, TSS2_Exception

from hwsigner.backends.state import is_private, is_usable, state_folders
from hwsigner.backends.tpm2.errors import AUTH_FAIL, BAD_AUTH, code, is_lost
from hwsigner.backends.tpm2.slots import Slots
from hwsigner.backends.tpm2.templates import ecc_primary
from hwsigner.errors import SigningKeyError, UnsafeConnectionWarning

# Where TCG's provisioning guidance (7.5.1) has the SRK.
PROVISIONED = 0x81000001
_STORAGE_KEY = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT


@dataclass(frozen=True)
class Trust:
    """Which storage root key is the right one.

    Attributes:
        name: its TPM Name in hexadecimal, or an empty string for the one that was seen first.
        accept_new: pin another one than was seen first.
        parent: the persistent handle of the key's parent, or that where an SRK is expected.
    """

    name: str = ""
    accept_new: bool = False
    parent: int = PROVISIONED


@contextmanager
def storage_key(esys: ESAPI, slots: Slots, tcti: str, trust: Trust) -> Iterator[ESYS_TR]:
    """Give the key that sessions are salted with: the persistent one, else the owner's primary key.

    Where the owner hierarchy wants an auth value, which must not be sent yet, it is a primary key of the null
    hierarchy. That one is another after each reset: it can't be pinned, and does not do where one is pinned.

    Raises:
        SigningKeyError: it is another key than before.
        TSS2_Exception: the TPM refused it.
    """
    persistent = _persistent(esys, trust.parent)
    if persistent is not None:
        try:
            _check(esys, persistent, tcti, trust)
            yield persistent
        finally:
            esys.tr_close(persistent)
        return
    with ExitStack() as stack:
        try:
            primary = stack.enter_context(slots.temporary(lambda: _primary(esys, ESYS_TR.RH_OWNER)))
        except _OwnerAuthError:
            if _pinned(tcti, trust):
                raise _out_of_sight(tcti) from None
            primary = stack.enter_context(slots.temporary(lambda: _primary(esys, ESYS_TR.RH_NULL)))
        else:
            _check(esys, primary, tcti, trust)
        yield primary


class _OwnerAuthError(Exception):
    """The owner hierarchy wants an auth value."""


def _persistent(esys: ESAPI, handle: int) -> ESYS_TR | None:
    """Return the storage key at a persistent handle, or None where there is none."""
    try:
        found = esys.tr_from_tpmpublic(handle)
    except TSS2_Exception as error:
        if is_lost(error):
            return None
        raise
    if _public_of(esys, found).publicArea.objectAttributes & _STORAGE_KEY == _STORAGE_KEY:
        return found
    esys.tr_close(found)
    return None


def _primary(esys: ESAPI, hierarchy: ESYS_TR) -> ESYS_TR:
    try:
        return esys.create_primary(None, ecc_primary(), hierarchy)[0]
    except TSS2_Exception as error:
        if code(error) in (AUTH_FAIL, BAD_AUTH):
            raise _OwnerAuthError from error
        raise


def _check(esys: ESAPI, key: ESYS_TR, tcti: str, trust: Trust) -> None:
    """Check that a storage key is the one that is pinned, and pin it where none is.

    Raises:
        SigningKeyError: it is another key.

    Warns:
        UnsafeConnectionWarning: it can't be pinned.
    """
    name, pinned, path = _name(esys, key), _pinned(tcti, trust), _path(tcti, trust)
    if name == pinned:
        return
    if trust.name:
        raise _changed(tcti, name, f"srk-name says, {trust.name}", "Correct srk-name")
    if pinned and not trust.accept_new:
        raise _changed(tcti, name, f"is pinned in {path}", "Run once with --accept-new-srk")
    if not _write(path, name, tcti):
        warnings.warn(
            UnsafeConnectionWarning(
                f"the storage root key of the TPM at {tcti} can't be pinned: {path or 'no folder'} can't be written",
                f"Set XDG_STATE_HOME, or srk-name = '{name}' in the profile",
            ),
            stacklevel=2,
        )


def _pinned(tcti: str, trust: Trust) -> str:
    """Return the Name that is pinned, or an empty string."""
    return trust.name.lower() or _read(_path(tcti, trust))


def _name(esys: ESAPI, key: ESYS_TR) -> str:
    """Return the Name of the very public area that salts are encrypted to: a Name alone is what anybody may claim."""
    return bytes(_public_of(esys, key).get_name()).hex()


def _public_of(esys: ESAPI, key: ESYS_TR) -> TPM2B_PUBLIC:
    """Return the public area that ESYS holds, out of its metadata: handle, Name, kind of resource, public area."""
    data = esys.tr_serialize(key)
    (size,) = struct.unpack_from(">H", data, 4)
    return TPM2B_PUBLIC.unmarshal(data[4 + 2 + size + 4 :])[0]


def _changed(tcti: str, name: str, than: str, hint: str) -> SigningKeyError:
    return SigningKeyError(
        f"the storage root key of the TPM at {tcti} is {name}, another one than {than}: the TPM was cleared or "
        "replaced, or something between it and this program takes its place to learn auth values. None was sent",
        f"Find out which. {hint} if the TPM is the right one",
    )


def _out_of_sight(tcti: str) -> SigningKeyError:
    return SigningKeyError(
        f"the storage root key of the TPM at {tcti} is pinned and can't be checked: it is not persistent at "
        f"{PROVISIONED:#010x}, and the owner hierarchy wants an auth value. None was sent",
        "Make it persistent there with tpm2_evictcontrol",
    )


def _path(tcti: str, trust: Trust) -> str:
    """Return the path of the file with the Name and the TCTI, or an empty string where there is no folder for it."""
    parent = "srk" if trust.parent == PROVISIONED else f"{trust.parent:#010x}"
    file = f"{parent}-{hashlib.sha256(os.fsencode(tcti)).hexdigest()[:16]}"
    return next((os.path.join(folder, file) for folder in state_folders("srk")), "")


def _read(path: str) -> str:
    if not is_private(os.path.dirname(path)):
        return ""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _write(path: str, *lines: str) -> bool:
    """Write a file in one step, so that no process reads a part of it; return whether that could be done."""
    if not path or not is_usable(os.path.dirname(path)):
        return False
    temporary = f"{path}.{os.getpid()}"
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(file, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.writelines(f"{line}\n" for line in lines)
        os.replace(temporary, path)
    except OSError:
        return False
    return True
