"""The places that hold a PIN: what `pin-source` names, systemd credentials, the variable HWSIGNER_PIN."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Hashable

from hwsigner.errors import PinError, UnsafeKeyWarning
from hwsigner.pins.child import MAX_PIN_BYTES, VARIABLE
from hwsigner.system.files import check_not_writable_by_others

CREDENTIAL = "hwsigner.pin"
KINDS = "pin-source=file:/path, env:NAME or cmd:PROGRAM"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Of what a token may call its serial number, what a file's name can hold: no path leads out of the folder.
_SERIAL = re.compile(r"[ -.0-~]{1,200}")

# The variable's value, once it is out of the environment.
_taken: dict[str, str] = {}
# To whom a PIN that names no token has gone, by the place that it came from.
_takers: dict[str, Hashable] = {}


def read_pin_source(source: str, *, allow_commands: bool = False) -> str:
    """Return the PIN that a `pin-source` names (RFC 7512, section 2.4).

    `file:` and a path, or a path alone: a file; one trailing newline is dropped. `env:` and a name: a variable of the
    environment. `cmd:` and a program with its arguments, in a shell's quotes but without a shell: the first line that
    it prints.

    Args:
        source: the `pin-source`.
        allow_commands: let `cmd:` run a program.

    Raises:
        PinError: another kind of source; a file that is missing, too long, not text, or that others can write; a
            variable that is not set; a command that is not allowed or fails.
    """
    kind, _, rest = source.partition(":")
    if source.startswith("/"):
        return read_pin_file(source)
    if kind == "file":
        return read_pin_file(_path(rest))
    if kind == "env":
        return _variable(rest)
    if kind == "cmd":
        if not allow_commands:
            hint = "A program that uses the library allows it with PinSource(allow_commands=True)"
            raise PinError("a key URI's pin-source is a command, and commands are not allowed here", hint)
        from hwsigner.pins.command import read_pin_command

        return read_pin_command(rest)
    # Not quoted: somebody may have written the PIN itself there.
    if source.startswith("|"):
        raise PinError("a key URI's pin-source begins with |", "Write pin-source=cmd:PROGRAM; no shell runs it")
    raise PinError("a key URI's pin-source is of no known kind", f"Write {KINDS}")


def read_pin_file(path: str, *, is_credential: bool = False) -> str:
    """Return the PIN that a file holds, as UTF-8, less one trailing newline.

    Args:
        path: its path.
        is_credential: it is a systemd credential, whose group bits are those of an access list, in a folder that is
            closed to others.

    Raises:
        PinError: it is missing, too long, not text, or others can write it.

    Warns:
        UnsafeKeyWarning: others can read it.
    """
    data = _read(path, is_credential=is_credential)
    if len(data) > MAX_PIN_BYTES:
        raise PinError(f"PIN file {path} holds more than {MAX_PIN_BYTES} bytes", "Let it hold the PIN alone")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        # Not chained: the exception would carry the file's bytes.
        raise PinError(f"PIN file {path} is not UTF-8 text", "Let it hold the PIN as text") from None
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def serial_credential(serial: str, taker: Hashable) -> str | None:
    """Return the systemd credential for the token with a serial number, or None.

    Two tokens may claim one number: it goes to the first in a process.

    Args:
        serial: the serial number.
        taker: the token, as far as it differs from others with that number.

    Raises:
        PinError: it can't be read or trusted.
    """
    path = _credential(f"{CREDENTIAL}.{serial}") if _SERIAL.fullmatch(serial) else None
    return read_pin_file(path, is_credential=True) if path is not None and _is_for(path, taker) else None


def unnamed_pin(taker: Hashable) -> str | None:
    """Return the PIN that names no token: the credential `hwsigner.pin`, else HWSIGNER_PIN; or None.

    Each goes to the first taker in a process and to no other: at another token it would be a wrong try.

    Args:
        taker: what it shall unlock.

    Raises:
        PinError: the credential can't be read or trusted.
    """
    path = _credential(CREDENTIAL)
    if path is not None and _is_for(path, taker):
        return read_pin_file(path, is_credential=True)
    pin = take_environment_pin()
    return pin if pin is not None and _is_for(VARIABLE, taker) else None


def take_environment_pin() -> str | None:
    """Return HWSIGNER_PIN, or None where it is unset or empty; the first call takes it out of the environment.

    Its bytes in the process's environment block are overwritten: /proc/PID/environ shows them no more. A program that
    sets it anew has that taken too.
    """
    value = os.environ.get(VARIABLE)
    if value is not None:
        _takers.pop(VARIABLE, None)
        _taken[VARIABLE] = value
        _overwrite(VARIABLE)
        os.environ.pop(VARIABLE, None)
    return _taken.get(VARIABLE) or None


def forget() -> None:
    """Forget HWSIGNER_PIN, and what has gone where: a command begins with what its environment says."""
    _taken.clear()
    _takers.clear()


def _is_for(place: str, taker: Hashable) -> bool:
    return _takers.setdefault(place, taker) == taker


def _credential(name: str) -> str | None:
    """Return the path of a systemd credential, or None where there is none of that name."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = os.path.join(folder, name)
    return path if os.path.isabs(folder) and os.path.lexists(path) else None


def _path(rest: str) -> str:
    """Return the path of a `file:` URI less its scheme (RFC 8089)."""
    for authority in ("///", "//localhost/"):
        if rest.startswith(authority):
            return "/" + rest.removeprefix(authority)
    return rest


def _variable(name: str) -> str:
    if not _NAME.fullmatch(name):
        # Not quoted: somebody may have written the PIN itself there.
        raise PinError("a key URI's pin-source=env: names no variable", "Write pin-source=env:NAME")
    value = take_environment_pin() if name == VARIABLE else os.environ.get(name)
    if value is None:
        raise PinError(f"the environment has no variable {name}, which pin-source names", "Set it")
    return value


def _read(path: str, *, is_credential: bool) -> bytes:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            check_not_writable_by_others(path, status, PinError)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISREG(status.st_mode) and mode & (stat.S_IRGRP | stat.S_IROTH) and not is_credential:
                text = f"PIN file {path} has mode {mode:04o}: other users can read it"
                warnings.warn(UnsafeKeyWarning(text, f"Run chmod 600 {path}"), stacklevel=2)
            return file.read(MAX_PIN_BYTES + 1)
    except OSError as error:
        hint = "Name a file that this user can read"
        raise PinError(f"can't read PIN file {path}: {error.strerror}", hint) from error


def _overwrite(name: str) -> None:
    """Overwrite a variable's value where the process was given it: to unset it leaves the bytes there."""
    import ctypes

    prefix = os.fsencode(name) + b"="
    block = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    index = 0
    while address := block[index]:
        entry = ctypes.string_at(address)
        if entry.startswith(prefix):
            ctypes.memset(address + len(prefix), 0, len(entry) - len(prefix))
        index += 1
