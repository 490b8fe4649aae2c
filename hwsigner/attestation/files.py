"""Documents of an attestation in files."""

from __future__ import annotations

import os

from hwsigner.attestation.documents import MAX_BYTES, Document, Kind, read
from hwsigner.errors import UsageError


def read_file(path: str, kind: Kind) -> Document:
    """Read a document from a file.

    Raises:
        UsageError: the file can't be read.
        AttestationError: it is not such a document.
    """
    return read(read_bytes(path), kind)


def read_bytes(path: str) -> bytes:
    """Read a file, but no more of it than is needed to see that it is too long.

    Raises:
        UsageError: it can't be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}", "Check the path") from error


def create_file(path: str, document: Document) -> None:
    """Write a document into a new file, which only this user can read.

    Raises:
        UsageError: there is such a file already, or it can't be made.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already, and is not overwritten", "Name another file") from error
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}", "Check the path") from error
    try:
        with open(file, "w", encoding="ascii") as stream:
            stream.write(document.to_json())
    except OSError as error:
        os.unlink(path)
        raise UsageError(f"can't write {path}: {error.strerror}", "Make room, or name another file") from error
