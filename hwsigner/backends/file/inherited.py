"""Keys and certificates that a process inherits: in an environment variable, an open file, or standard input.

Each is read once. Then the variable is gone from the environment and the file is closed, so that no child has the key.
What was read stays in memory: a key and its certificate may be in one variable or file.
"""

from __future__ import annotations

import binascii
import os
import threading

from hwsigner._system.environment import take_variable
from hwsigner._uri import KeyURI
from hwsigner.backends.pem import BYTE_ORDER_MARK, MAX_FILE_BYTES, Contents, read_blocks
from hwsigner.errors import HwsignerError

# What was read, by the URI's name.
_kept: dict[str, bytes] = {}
_lock = threading.Lock()


def read_inherited(uri: KeyURI, error: type[HwsignerError]) -> Contents:
    """Return what is in the variable or open file that an `env:` or `fd:` URI names: PEM or DER, or base64 of it.

    A terminal, nothing at all, more than 1 MiB and what is neither PEM nor DER are errors of the given class.
    """
    with _lock:
        read = _read_variable if uri.scheme == "env" else _read_open_file
        data = read(uri, error)
    if len(data) > MAX_FILE_BYTES:
        raise error(f"{uri.name} has more than {MAX_FILE_BYTES} bytes", "Give a key or certificate")
    if not data.strip():
        raise error(f"{uri.name} is empty", "Give it a key or certificate")
    try:
        return Contents(read_blocks(_decoded(data)), None)
    except ValueError as reason:
        hint = "Give PEM, DER or PKCS #12, or base64 of one of these"
        raise error(f"{uri.name} is not a key or certificate: {reason}", hint) from reason


def forget() -> None:
    """Forget what was read, at the start of a test."""
    _kept.clear()


def _read_variable(uri: KeyURI, error: type[HwsignerError]) -> bytes:
    name = uri.path["name"].decode()
    value = take_variable(name)
    if value is not None:
        _kept[uri.name] = os.fsencode(value)
    if uri.name not in _kept:
        raise error(f"environment variable {name} is not set", "Set it to the key or certificate")
    return _kept[uri.name]


def _read_open_file(uri: KeyURI, error: type[HwsignerError]) -> bytes:
    number, name = int(uri.path["name"]), uri.name
    if name in _kept:
        return _kept[name]
    try:
        is_inherited = os.get_inheritable(number)  # Python makes others, such as a server's socket, not inheritable.
    except OSError:
        is_inherited = False
    if not is_inherited:
        raise error(f"{name} is not open", "Open it when you start hwsigner, such as with 7<FILE for fd:7")
    if os.isatty(number):
        raise error(f"{name} is a terminal", "Pipe the key or certificate in, or name a file")
    try:
        os.set_blocking(number, True)
        with open(number, "rb", closefd=False) as file:
            _kept[name] = file.read(MAX_FILE_BYTES + 1)
    except OSError as reason:
        raise error(f"can't read {name}: {reason.strerror}", "Open it for reading, or name a file") from reason
    _close(number)
    return _kept[name]


def _close(number: int) -> None:
    """Close an open file. Its number leads to /dev/null: as that of a file opened later, a child could inherit it."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, number, inheritable=number == 0)  # Every program expects to have standard input.
    os.close(null)


def _decoded(data: bytes) -> bytes:
    """Return PEM or DER as it is, and base64 decoded: a CI system's masked variable can't have several lines."""
    data = data.removeprefix(BYTE_ORDER_MARK)
    if b"-----BEGIN " in data or data.startswith(b"\x30"):
        return data
    try:
        return binascii.a2b_base64(b"".join(data.split()), strict_mode=True)
    except binascii.Error:
        return data
