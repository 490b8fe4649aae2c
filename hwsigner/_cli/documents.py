"""Documents of an attestation in files, for `hwsigner attest` and `hwsigner verify-attestation`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from hwsigner import attestation
from hwsigner._system.files import check_not_writable_by_others
from hwsigner._system.mounts import is_read_only_mount
from hwsigner._system.new_files import create_file
from hwsigner.attestation.chain import root_files
from hwsigner.attestation.documents import MAX_BYTES, Document, Kind, read
from hwsigner.attestation.given_keys import read_given_key
from hwsigner.errors import UsageError


def read_document(path: str, kind: Kind) -> Document:
    """Read a document."""
    return read(read_bytes(path), kind)


def read_bytes(path: str) -> bytes:
    """Read a file, but no more of it than is needed to see that it is too long."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}", "Check the path") from error


def read_endorsement_key(path: str) -> str:
    """Read an endorsement key that the administrator gives, `-` from stdin; return its SHA-256 in hexadecimal."""
    if path == "-":
        return read_given_key(sys.stdin.buffer.read(MAX_BYTES + 1), "stdin")
    return read_given_key(read_bytes(path), path)


def create_document(path: str, document: Document) -> None:
    """Write a document into a new file of mode 0600."""
    try:
        create_file(path, document.to_json().encode("ascii"))
    except FileExistsError as error:
        raise UsageError(f"{path} is there already, and is not overwritten", "Name another file") from error
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}", "Check the path, or name another file") from error


def read_trust(folder: str) -> attestation.Trust:
    """Read the roots. Another user who can write to them could make up chips.

    A folder that is mounted read-only may have any mode: the kubelet gives that of a ConfigMap 0777.
    """
    paths = [str(path) for path in root_files(folder)]
    if not is_read_only_mount(folder):
        paths.insert(0, folder)
    for path in paths:
        with suppress(FileNotFoundError):  # A broken link: the reader names it.
            check_not_writable_by_others(path, os.stat(path), UsageError)
    return attestation.read_trust(folder)
