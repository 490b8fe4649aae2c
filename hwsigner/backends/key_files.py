"""New key files, their deletion, and the certificate files beside them. Two backends keep keys in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import InvalidVersion, load_der_x509_certificate

from hwsigner._system.files import change_stamp, edit_file
from hwsigner._system.new_files import create_file, remove_unfinished
from hwsigner.backends.pem import MAX_FILE_BYTES, Block, read_blocks
from hwsigner.errors import CertificateError, HwsignerError, SigningKeyError

_MODE = 0o644  # Certificates are public.


def check_new_key_file(path: str) -> None:
    """Check that a key file can be made, before its key is: nothing is at the path, and its folder can be written."""
    if os.path.lexists(path):
        raise _exists(path)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise SigningKeyError(f"there is no folder {folder} for the new key", "Make the folder first")
    if not os.access(folder, os.W_OK | os.X_OK):
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            raise SigningKeyError(f"can't write into {folder}: Read-only file system", "Choose another folder")
        raise SigningKeyError(f"no permission to write into {folder}", "Choose another folder, or ask its owner")


def write_new_key_file(path: str, data: bytes) -> None:
    """Write a key file of mode 0600, and overwrite nothing."""
    try:
        create_file(path, data)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise SigningKeyError(f"can't write {path}: {error.strerror}", "Choose another place for the key") from error


def delete_files(doomed: Mapping[str, str], confirm: Callable[[], None]) -> None:
    """Delete files once the user has agreed, unless one of them was replaced meanwhile.

    `doomed` says what each file is, in words, by its path without links. `confirm` asks the user, and raises an error
    to keep them. If a file was replaced, none is deleted.
    """
    stamps = _stamps(doomed)
    confirm()
    if changed := dict(_stamps(doomed).items() ^ stamps.items()):
        problem = f"{min(changed)} was replaced meanwhile, so nothing was deleted"
        raise SigningKeyError(problem, "Look at it, then retry")
    for path, words in doomed.items():
        try:
            os.unlink(path)
            remove_unfinished(path)
        except OSError as error:
            problem = f"can't delete {words}: {error.strerror}"
            raise SigningKeyError(problem, "Check who may change its folder") from error


def _stamps(paths: Iterable[str]) -> dict[str, str]:
    """Return the change stamps of those files that there are."""
    found = {}
    for path in paths:
        with suppress(OSError):
            found[path] = change_stamp(path, os.stat(path))
    return found


def certificate_files(key: str) -> tuple[str, str]:
    """Return the paths beside a key file for its certificates, and for intermediates alone.

    They are `web.crt` and `web.chain.crt` for `web.pem`. Those of a symbolic link are beside its target.
    """
    path = os.path.realpath(key)
    root, suffix = os.path.splitext(path)
    if suffix == ".crt":
        root = path
    return f"{root}.crt", f"{root}.chain.crt"


def write_certificates(path: str, certificates: Sequence[bytes], public_key: bytes | None) -> None:
    """Write certificates in DER into a PEM file. One that holds anything else than a key's certificates stays.

    They keep their order. A new file gets mode 0644. The public key is DER SubjectPublicKeyInfo; None to replace
    certificates of any key. A file with anything else is a CertificateError.
    """
    pem = b"".join(Block("CERTIFICATE", der).pem for der in certificates)

    def replaced(old: bytes) -> bytes:
        if old and not _are_certificates(old, public_key):
            raise _foreign(path)
        return pem

    try:
        edit_file(path, replaced, mode=_MODE)
    except CertificateError:
        raise
    except HwsignerError as error:
        raise SigningKeyError(error.message, error.hint) from error


def check_replaceable(path: str, public_key: bytes) -> None:
    """Check that `write_certificates` may replace a file, or that there is none.

    A file with anything else than certificates of this key is a CertificateError.
    """
    if os.path.isfile(path) and os.path.getsize(path) and not holds_certificates(path, public_key):
        raise _foreign(path)


def holds_certificates(path: str, public_key: bytes | None) -> bool:
    """Return whether a file has certificates alone, the first of them for this key, or for any if that is None."""
    try:
        if not os.path.isfile(path):  # Opening a pipe could take forever.
            return False
        with open(path, "rb") as file:
            return _are_certificates(file.read(MAX_FILE_BYTES), public_key)
    except OSError:
        return False


def _are_certificates(data: bytes, public_key: bytes | None) -> bool:
    try:
        blocks = read_blocks(data)
    except ValueError:
        return False
    is_of_key = public_key is None or is_certificate_of(blocks[0].data, public_key)
    return is_of_key and all(block.label.endswith("CERTIFICATE") for block in blocks)


def is_certificate_of(der: bytes, public_key: bytes) -> bool:
    """Return whether bytes are a certificate in DER for a key, given its DER SubjectPublicKeyInfo."""
    try:
        return load_der_x509_certificate(der).public_key() == load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm, InvalidVersion):
        return False


def _foreign(path: str) -> CertificateError:
    problem = f"{path} is there already, and is not a certificate of this key"
    return CertificateError(problem, "Move that file to another place")


def _exists(path: str) -> SigningKeyError:
    hint = "Name a new file, or delete that one: it is not overwritten"
    return SigningKeyError(f"{path} is there already", "Name a file in that folder" if os.path.isdir(path) else hint)
