"""A key's life in a TPM: what `hwsigner.management` calls."""

from __future__ import annotations

import os

from tpm2_pytss import TPM2B_PUBLIC, TPMA_OBJECT

from hwsigner.backends.pem import read_contents
from hwsigner.backends.tpm2 import handles
from hwsigner.backends.tpm2.auth import ParentAuth
from hwsigner.backends.tpm2.connection import connected
from hwsigner.backends.tpm2.describe import describe_key
from hwsigner.backends.tpm2.install import certificate_files, install_certificate
from hwsigner.backends.tpm2.keygen import generate_key
from hwsigner.backends.tpm2.objects import PersistentObject
from hwsigner.backends.tpm2.tcti import tcti_of
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.backends.tpm2.uris import handle_name, named_handle, named_key, session_settings
from hwsigner.errors import KeyNotFoundError, SigningKeyError
from hwsigner.management import Confirm
from hwsigner.pins import PinSource
from hwsigner.system.files import sync_folder
from hwsigner.uri import KeyURI

__all__ = ["delete_key", "describe_key", "generate_key", "install_certificate"]

_STORAGE = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT


def delete_key(uri: KeyURI, pins: PinSource, confirm: Confirm) -> tuple[str, ...]:
    """Delete a key file with the certificate files that `install_certificate` wrote beside it, or a persistent key.

    A link is followed: the file that it names goes, and the link stays. Whoever has a copy of a key file can go on
    using it with this TPM.

    Args:
        uri: the key's URI.
        pins: where the owner's auth value comes from, for a handle.
        confirm: gets what would go, a line each, and raises an error to keep it.

    Returns:
        What is gone, a line each.

    Raises:
        UsageError: the handle is reserved for keys of the platform, or for storage root or endorsement keys.
        KeyNotFoundError: there is no such key.
        SigningKeyError: it is the parent of other keys, was replaced meanwhile, or is still there.
        PinError: the owner's auth value is missing or wrong; it was sent once.
    """
    handle = named_handle(uri)
    if handle is None:
        return _delete_file(uri, pins, confirm)
    return _delete_persistent(uri, pins, confirm, handle)


def _delete_file(uri: KeyURI, pins: PinSource, confirm: Confirm) -> tuple[str, ...]:
    named_key(uri, ParentAuth(uri, pins))  # It must be a TPM's key.
    key = os.path.realpath(uri.file)
    contents = read_contents(key, KeyNotFoundError)
    files = {f"the key file {key}" + (f" with {contents}" if len(contents.blocks) > 1 else ""): key}
    files |= {f"its certificate file {path}": path for path in certificate_files(uri.file) if os.path.isfile(path)}
    first, *others = files
    confirm((f"{first} (a copy of it would still sign with its TPM)", *others))
    for path in files.values():
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SigningKeyError(f"can't delete {path}: {error.strerror}", "Check who may write its folder") from error
    sync_folder(os.path.dirname(key))
    return tuple(files)


def _delete_persistent(uri: KeyURI, pins: PinSource, confirm: Confirm, handle: int) -> tuple[str, ...]:
    handles.check_own_handle(handle)
    auth, settings = ParentAuth(uri, pins), session_settings(uri)
    key = PersistentObject(handle, handle_name(handle))
    with connected(tcti_of(uri), key) as connection:

        def read(tpm: TPM) -> TPM2B_PUBLIC:
            with key.loaded(tpm) as loaded:
                return tpm.esys.read_public(loaded)[0]

        public = connection.run(read, key.name, settings)
        attributes, name = public.publicArea.objectAttributes, bytes(public.get_name())
        if attributes & _STORAGE == _STORAGE:
            raise SigningKeyError(
                f"{key.name} is a storage key, which may be the parent of other keys, so it was not deleted",
                "If none needs it, run tpm2_evictcontrol",
            )
        line = f"the key at {key.name} in the TPM at {tcti_of(uri)} (Name {name.hex()})"
        confirm((line,))
        connection.run(lambda tpm: handles.remove(tpm, auth, name, handle), key.name, settings)
        if connection.run(lambda tpm: handles.name_at(tpm, handle), key.name, settings) == name:
            raise SigningKeyError(f"the TPM reported success, and {key.name} is still there", "Try tpm2_evictcontrol")
    return (line,)
