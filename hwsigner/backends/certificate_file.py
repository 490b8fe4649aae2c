"""The files of certificates that `install-certificate` writes beside a key file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import InvalidVersion, load_der_x509_certificate

from hwsigner.backends.pem import MAX_FILE_BYTES, Block, read_blocks
from hwsigner.errors import CertificateError, HwsignerError, SigningKeyError
from hwsigner.system.files import edit_file

_MODE = 0o644


def write_certificates(path: str, certificates: Sequence[bytes], public_key: bytes | None) -> None:
    """Write certificates into a PEM file, unless one is there that holds something else.

    Args:
        path: the file's path.
        certificates: their DER.
        public_key: the DER SubjectPublicKeyInfo that the first certificate in the old file must have; None for any.

    Raises:
        CertificateError: the file has anything else than such certificates.
        SigningKeyError: it can't be written.
    """
    pem = b"".join(Block("CERTIFICATE", der).pem for der in certificates)

    def replace(old: bytes) -> bytes:
        if old and not _holds_certificates(old, public_key):
            problem = f"{path} is there already, and is not a certificate of this key"
            raise CertificateError(problem, "Move it to another place")
        return pem

    try:
        edit_file(path, replace, mode=_MODE)
    except CertificateError:
        raise
    except HwsignerError as error:
        raise SigningKeyError(error.message, error.hint) from error


def is_certificate_file(path: str, public_key: bytes | None) -> bool:
    """Return whether a file holds certificates alone, the first of them for this key, or for any if that is None."""
    try:
        if not os.path.isfile(path):  # Opening a pipe could take forever.
            return False
        with open(path, "rb") as file:
            return _holds_certificates(file.read(MAX_FILE_BYTES), public_key)
    except OSError:
        return False


def _holds_certificates(data: bytes, public_key: bytes | None) -> bool:
    try:
        blocks = read_blocks(data)
        first = load_der_x509_certificate(blocks[0].data).public_key()
    except (ValueError, UnsupportedAlgorithm, InvalidVersion):
        return False
    is_of_key = public_key is None or first == load_der_public_key(public_key)
    return is_of_key and all(block.label.endswith("CERTIFICATE") for block in blocks)
