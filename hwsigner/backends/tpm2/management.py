"""A key's life in a TPM: what `hwsigner.key.management` calls."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from tpm2_pytss import TPM2B_PUBLIC, TPMA_OBJECT

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.key_files import certificate_files, delete_files, holds_certificates
from hwsigner.backends.tpm2 import handles
from hwsigner.backends.tpm2.connection import connected
from hwsigner.backends.tpm2.description import describe_key
from hwsigner.backends.tpm2.installing import install_certificate, installed_indices, remove_index
from hwsigner.backends.tpm2.keygen import generate_key
from hwsigner.backends.tpm2.nv import nv_name
from hwsigner.backends.tpm2.objects import ParentAuth, PersistentObject
from hwsigner.backends.tpm2.public_area import spki_of
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.backends.tpm2.uris import handle_name, named_handle, session_settings, tcti_of
from hwsigner.errors import SigningKeyError
from hwsigner.key.management import Confirm

__all__ = ["delete_key", "describe_key", "generate_key", "install_certificate"]

_STORAGE = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.DECRYPT


def delete_key(uri: KeyURI, pins: PinSource, confirm: Confirm) -> tuple[str, ...]:
    """Delete a key file with the certificate files that `install_certificate` wrote beside it, or a persistent key.

    With a persistent key, its certificates in NV indices go that `install_certificate` defined. With a key file, they
    stay: its TPM may be another one.

    If the path is a symbolic link, its target is deleted and the link stays. A copy of a key file can still be used
    with its TPM. A key that is the parent of other keys stays, which is a SigningKeyError. A wrong auth value of the
    owner was sent once.
    """
    handle = named_handle(uri)
    if handle is None:
        return _delete_file(uri, pins, confirm)
    return _delete_persistent(uri, pins, confirm, handle)


def _delete_file(uri: KeyURI, pins: PinSource, confirm: Confirm) -> tuple[str, ...]:
    public_key = describe_key(uri, pins).public_key
    path = os.path.realpath(uri.file)
    doomed = {path: f"the key in {path}"}
    for file, owner in zip(certificate_files(path), (public_key, None), strict=True):
        if holds_certificates(file, owner):
            doomed[file] = f"its certificates in {file}"
    first, *others = doomed.values()
    shown = (f"{first}, with all that is in the file; a copy of it would still sign with its TPM", *others)
    delete_files(doomed, lambda: confirm(shown))
    return tuple(doomed.values())


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
        public_key = spki_of(public.publicArea) or b""
        indices = connection.run(lambda tpm: installed_indices(tpm, public_key), key.name, settings)
        lines = (
            f"the key at {key.name} in the TPM at {tcti_of(uri)} (Name {name.hex()})",
            *(f"its certificate in {nv_name(index)}" for index in indices),
        )
        confirm(lines)
        # The key goes last: if hwsigner is killed before that, the same URI deletes the rest.
        for index in indices:
            connection.run(
                partial(remove_index, auth=auth, public_key=public_key, index=index), nv_name(index), settings
            )
        connection.run(lambda tpm: handles.remove(tpm, auth, name, handle), key.name, settings)
        if connection.run(lambda tpm: handles.name_at(tpm, handle), key.name, settings) == name:
            raise SigningKeyError(f"the TPM reported success, and {key.name} is still there", "Use tpm2_evictcontrol")
    return lines


if TYPE_CHECKING:
    from hwsigner.backends.tpm2 import management
    from hwsigner.key.management import ManagesKeys

    _: ManagesKeys = management
