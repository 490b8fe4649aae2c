"""The storage root key (SRK) that sessions are salted with, and its Name, pinned at first use.

Something between hwsigner and the TPM could offer a key of its own and read what is encrypted to it. So the Name, a
hash of the public area, must stay the same for each TPM and parent.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import NamedTuple

from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_PUBLIC, TPMA_OBJECT, TSS2_Exception

from hwsigner._system.environment import is_usable, state_folders
from hwsigner._system.files import edit_file, open_trusted
from hwsigner.backends.tpm2.errors import AUTH_FAIL, BAD_AUTH, code, is_lost
from hwsigner.errors import HwsignerError, SigningKeyError, UnsafeConnectionWarning

# Where TCG's provisioning guidance (7.5.1) has the SRK.
PROVISIONED = 0x81000001
_NAME = re.compile(r"000[bcd](?:[0-9a-f]{2}){32,64}")
_LONGEST_NAME = 2 * (2 + 64) + 1
_ACCEPT = "Then run once with --accept-new-srk, or set srk-name in the profile"
_STORAGE_KEY = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT
STORAGE_ATTRIBUTES = TPMA_OBJECT(
    _STORAGE_KEY
    | TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
)
# The template that the key file's draft names: H-2 of TCG's EK Credential Profile, without a policy.
ecc_primary = partial(
    TPM2B_PUBLIC.parse, "ecc256:aes128cfb", objectAttributes=TPMA_OBJECT(STORAGE_ATTRIBUTES | TPMA_OBJECT.NODA)
)
# Loads an object, and flushes it after the `with` statement.
_Temporary = Callable[[Callable[[], ESYS_TR]], AbstractContextManager[ESYS_TR]]
# Opens a persistent object, and closes it after the `with` statement.
_Persistent = Callable[[int], AbstractContextManager[ESYS_TR]]


class TrustedSRK(NamedTuple):
    """Which storage root key is the right one."""

    name: str = ""  # Its TPM Name in hexadecimal, or empty for the one that was seen first.
    accept_new: bool = False  # Pin another one than was seen first.
    handle: int = PROVISIONED  # That of the key's parent, or where an SRK is expected.


@contextmanager
def storage_root_key(
    esys: ESAPI, persistent: _Persistent, temporary: _Temporary, tcti: str, trusted: TrustedSRK | None
) -> Iterator[ESYS_TR]:
    """Load the key that sessions are salted with: the persistent one, else the owner's primary key.

    If the owner hierarchy has an auth value, which must not be sent yet, it is a primary key of the null hierarchy.
    That key changes at each reset, so it can't be pinned, and is an error if another one is pinned. If `trusted` is
    None, any is right, and none is pinned: no secret is to be sent.
    """
    with ExitStack() as stack:
        handle = trusted.handle if trusted else PROVISIONED
        found = _storage_key(esys, lambda: stack.enter_context(persistent(handle)))
        if found is not None:
            _check(esys, found, tcti, trusted)
            yield found
            return
        try:
            primary = stack.enter_context(temporary(lambda: _primary(esys, ESYS_TR.RH_OWNER)))
        except _OwnerAuthError:
            if trusted and pinned(tcti, trusted):
                raise SigningKeyError(
                    f"the storage root key of the TPM at {tcti} is pinned and can't be checked: it is not persistent "
                    f"at {PROVISIONED:#010x}, and the owner hierarchy needs an auth value. None was sent",
                    "Make it persistent there with tpm2_evictcontrol",
                ) from None
            primary = stack.enter_context(temporary(lambda: _primary(esys, ESYS_TR.RH_NULL)))
        else:
            _check(esys, primary, tcti, trusted)
        yield primary


class _OwnerAuthError(Exception):
    """The owner hierarchy needs an auth value."""


def _storage_key(esys: ESAPI, load: Callable[[], ESYS_TR]) -> ESYS_TR | None:
    """Return the persistent key that is opened, or None if there is none or if it is not a storage key."""
    try:
        found = load()
    except TSS2_Exception as error:
        if is_lost(error):
            return None
        raise
    is_storage_key = _public_area(esys, found).publicArea.objectAttributes & _STORAGE_KEY == _STORAGE_KEY
    return found if is_storage_key else None


def _primary(esys: ESAPI, hierarchy: ESYS_TR) -> ESYS_TR:
    try:
        return esys.create_primary(None, ecc_primary(), hierarchy)[0]
    except TSS2_Exception as error:
        if code(error) in (AUTH_FAIL, BAD_AUTH):
            raise _OwnerAuthError from error
        raise


def _check(esys: ESAPI, key: ESYS_TR, tcti: str, trusted: TrustedSRK | None) -> None:
    """Check that a storage key is the pinned one, and pin it if none is, or warn that this is not possible."""
    if trusted is None:
        return
    # Computed from the very public area that salts are encrypted to: anything can claim a Name.
    name, known, path = bytes(_public_area(esys, key).get_name()).hex(), pinned(tcti, trusted), _path(tcti, trusted)
    if name == known:
        return
    if known and (trusted.name or not trusted.accept_new):
        expected = f"srk-name says, {known}" if trusted.name else f"is pinned in {path}"
        hint = "Correct srk-name" if trusted.name else "Run once with --accept-new-srk"
        raise SigningKeyError(
            f"the storage root key of the TPM at {tcti} is {name}, another one than {expected}: the TPM was cleared or "
            "replaced, or something between it and this program takes its place to learn auth values. None was sent",
            f"Find out which. {hint} if the TPM is the right one",
        )
    if not _write(path, name, tcti):
        reason = f"{path} can't be written" if path else "there is no private folder for it"
        warnings.warn(
            UnsafeConnectionWarning(
                f"the storage root key of the TPM at {tcti} can't be pinned: {reason}",
                f"Set XDG_STATE_HOME, or srk-name = '{name}' in the profile",
            ),
            stacklevel=2,
        )


def pinned(tcti: str, trusted: TrustedSRK) -> str:
    """Return the Name that is pinned, or an empty string. With `accept_new`, a pin that can't be trusted is ignored."""
    try:
        return trusted.name.lower() or _read(_path(tcti, trusted))
    except SigningKeyError:
        if trusted.accept_new:
            return ""
        raise


def _public_area(esys: ESAPI, key: ESYS_TR) -> TPM2B_PUBLIC:
    """Return the public area in ESYS's metadata of a key: handle, Name, kind of resource, public area."""
    data = esys.tr_serialize(key)
    (size,) = struct.unpack_from(">H", data, 4)
    return TPM2B_PUBLIC.unmarshal(data[4 + 2 + size + 4 :])[0]


def _path(tcti: str, trusted: TrustedSRK) -> str:
    """Return the path of the file with the Name and the TCTI, or an empty string if there is no folder for it."""
    key = "srk" if trusted.handle == PROVISIONED else f"{trusted.handle:#010x}"
    file = f"{key}-{hashlib.sha256(os.fsencode(tcti)).hexdigest()[:16]}"
    return next((os.path.join(folder, file) for folder in state_folders("srk")), "")


def _read(path: str) -> str:
    """Return the Name that is pinned in a file, or an empty string if there is no file."""
    folder = os.path.dirname(path)
    with suppress(OSError):
        status = os.stat(folder)
        # Others may have removed the pin from a folder of ours that they can write.
        is_open = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        if (status.st_uid == os.getuid() and is_open) or (
            os.path.lexists(path) and status.st_uid not in (0, os.getuid())
        ):
            raise SigningKeyError(
                f"{folder}, where the storage root keys of TPMs are pinned, can be changed by other users",
                f"Own it and run chmod 700 {folder}. {_ACCEPT}",
            )
    if not os.path.lexists(path):
        return ""
    try:
        with open_trusted(path, SigningKeyError) as file:
            name = file.readline(_LONGEST_NAME).decode("ascii", "replace").strip()
    except OSError as error:
        problem = f"can't read {path}, where the storage root key of the TPM is pinned: {error.strerror}"
        raise SigningKeyError(problem, _ACCEPT) from error
    if not _NAME.fullmatch(name):
        raise SigningKeyError(
            f"{path}, where the storage root key of the TPM is pinned, has no TPM Name in it", _ACCEPT
        )
    return name


def _write(path: str, *lines: str) -> bool:
    """Replace a file in one step, on disk when this returns. Return whether that was possible."""
    if not path or not is_usable(os.path.dirname(path)):
        return False
    text = "".join(f"{line}\n" for line in lines)
    try:
        if os.path.lexists(path) and not os.path.isfile(path):
            os.unlink(path)
        edit_file(path, lambda _: os.fsencode(text))
    except (OSError, HwsignerError):
        return False
    return True
