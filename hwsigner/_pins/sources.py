"""Stored PINs: `pin-source`, systemd credentials, and the environment variable HWSIGNER_PIN."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Hashable

from hwsigner._pins.child import MAX_PIN_BYTES, VARIABLE
from hwsigner._system.files import change_stamp, open_trusted
from hwsigner.errors import PinError, UnsafeKeyWarning

CREDENTIAL = "hwsigner.pin"
PROFILE_CREDENTIAL = "hwsigner.profile-pin"
KINDS = "pin-source=file:/path, env:NAME, credential:NAME or cmd:PROGRAM"
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
# What can be part of a credential's name. No slash, so no path leads out of the folder.
_PART = r"[ -.0-~]{1,200}"

# The variable's value, after it was removed from the environment.
_taken: dict[str, str] = {}
# What got the PIN of a place that names no token, by the place.
_takers: dict[str, Hashable] = {}
# The token or file of each profile that this process serves and that has no PIN of its own, by the profile's name.
_profiles: dict[str, Hashable] = {}


class FilePin(str):
    """A PIN from a file. `place` changes when the file does: see `change_stamp`."""

    place = ""


def read_pin_source(source: str, *, allow_commands: bool = False) -> str:
    """Return the PIN that a `pin-source` names (RFC 7512, section 2.4).

    `file:` and a path, or a path alone: a file, without one trailing newline. `env:` and a name: an environment
    variable. `credential:` and a name: a systemd credential. `cmd:` and a program with its arguments, quoted as for a
    shell: the first line that it prints. `cmd:` is refused unless `allow_commands`. A file that others can write is a
    PinError.
    """
    kind, _, rest = source.partition(":")
    if source.startswith("/"):
        return read_pin_file(source)
    if kind == "file":
        return read_pin_file(_path(rest))
    if kind == "env":
        return _variable(rest)
    if kind == "credential":
        if not re.fullmatch(_PART, rest) or rest in (".", ".."):
            # Not quoted: it may be the PIN itself.
            raise PinError("a key URI's pin-source=credential: names no systemd credential", f"Write {KINDS}")
        path = _credential(rest)
        if path is None:
            hint = f"Add LoadCredentialEncrypted={rest}:/path to the unit"
            raise PinError(f"there is no systemd credential {rest}, which pin-source names", hint)
        return read_pin_file(path, is_credential=True)
    if kind == "cmd":
        if not allow_commands:
            hint = "A program allows it with PinSource(allow_commands=True)"
            raise PinError("a key URI's pin-source is a command, and commands are not allowed here", hint)
        from hwsigner._pins.command import read_pin_command

        return read_pin_command(rest)
    # Not quoted: it may be the PIN itself.
    if source.startswith("|"):
        raise PinError("a key URI's pin-source starts with |", "Write pin-source=cmd:PROGRAM; no shell is used")
    raise PinError("a key URI's pin-source is of an unknown kind", f"Write {KINDS}")


def read_pin_file(path: str, *, is_credential: bool = False) -> str:
    """Return the PIN in a file, as UTF-8 without one trailing newline.

    A file that others can write is a PinError; one that they can read is a warning. The group bits of a systemd
    credential are those of an access list, and other users can't enter its folder.
    """
    data, stamp = _read(path, is_credential=is_credential)
    if len(data) > MAX_PIN_BYTES:
        raise PinError(f"PIN file {path} has more than {MAX_PIN_BYTES} bytes", "Put only the PIN in it")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        # Not chained: the exception would carry the file's bytes.
        raise PinError(f"PIN file {path} is not UTF-8 text", "Write the PIN as text") from None
    pin = FilePin(text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text)
    pin.place = stamp
    return pin


def serial_credential(serial: str, taker: Hashable) -> str | None:
    """Return the systemd credential for the token with a serial number, or None.

    If two tokens have the same number, the first in a process gets it. `taker` tells the token from others with that
    number.
    """
    path = _credential(f"{CREDENTIAL}.{serial}") if re.fullmatch(_PART, serial) else None
    return read_pin_file(path, is_credential=True) if path is not None and _is_for(path, taker) else None


def profile_credential(name: str) -> str | None:
    """Return the systemd credential for the key of a profile, or None."""
    path = _credential(f"{PROFILE_CREDENTIAL}.{name}") if re.fullmatch(_PART, name) else None
    return None if path is None else read_pin_file(path, is_credential=True)


def serve_place(name: str, place: Hashable | None) -> None:
    """Record what the PIN of a profile that this process serves unlocks.

    That is a token or file; None if the profile has a PIN of its own, or is not served any more.
    """
    _profiles.pop(name, None)
    if place is not None:
        _profiles[name] = place


def withheld_place() -> str | None:
    """Return the place of a PIN that is not used because it names no token and the profiles use several, or None."""
    if not _has_several_places():
        return None
    if _credential(CREDENTIAL):
        return f"The systemd credential {CREDENTIAL}"
    return VARIABLE if take_environment_pin() else None


def unnamed_pin(taker: Hashable) -> str | None:
    """Return the PIN that names no token: that of the credential `hwsigner.pin`, else of HWSIGNER_PIN; or None.

    Each goes only to the first taker in a process, as it would be wrong for another token. If the profiles that this
    process serves use several tokens or files, the first need not be the right one, so none gets it.
    """
    if _has_several_places():
        return None
    path = _credential(CREDENTIAL)
    if path is not None and _is_for(path, taker):
        return read_pin_file(path, is_credential=True)
    pin = take_environment_pin()
    return pin if pin is not None and _is_for(VARIABLE, taker) else None


def take_environment_pin() -> str | None:
    """Return HWSIGNER_PIN, or None if it is unset or empty. The first call removes it from the environment.

    Its bytes in the process's environment block are overwritten, so /proc/PID/environ no longer shows them. If a
    program sets it again, that value is removed too.
    """
    if VARIABLE in os.environ:
        from hwsigner._system.environment import take_variable

        _takers.pop(VARIABLE, None)
        _taken[VARIABLE] = take_variable(VARIABLE) or ""
    return _taken.get(VARIABLE) or None


def forget() -> None:
    """Forget HWSIGNER_PIN, which token got which PIN, and the profiles, at the start of a command."""
    _taken.clear()
    _takers.clear()
    _profiles.clear()


def _has_several_places() -> bool:
    places = {place for name, place in list(_profiles.items()) if not _credential(f"{PROFILE_CREDENTIAL}.{name}")}
    return len(places) > 1


def _is_for(place: str, taker: Hashable) -> bool:
    return _takers.setdefault(place, taker) == taker


def _credential(name: str) -> str | None:
    """Return the path of a systemd credential, or None if there is none with that name."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = os.path.join(folder, name)
    return path if os.path.isabs(folder) and os.path.lexists(path) else None


def _path(rest: str) -> str:
    """Return the path in a `file:` URI (RFC 8089) without its scheme."""
    for authority in ("///", "//localhost/"):
        if rest.startswith(authority):
            return "/" + rest.removeprefix(authority)
    return rest


def _variable(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        # Not quoted: it may be the PIN itself.
        raise PinError("a key URI's pin-source=env: names no variable", "Write pin-source=env:NAME")
    value = take_environment_pin() if name == VARIABLE else os.environ.get(name)
    if value is None:
        raise PinError(f"environment variable {name}, named by pin-source, is not set", "Set that variable")
    return value


def _read(path: str, *, is_credential: bool) -> tuple[bytes, str]:
    try:
        with open_trusted(path, PinError, pipe=True) as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            is_regular = stat.S_ISREG(status.st_mode)
            is_open = is_regular and mode & (stat.S_IRGRP | stat.S_IROTH) and not is_credential
            if is_open and not _is_given(path, status):
                text = f"PIN file {path} has mode {mode:04o}: other users can read it"
                warnings.warn(UnsafeKeyWarning(text, f"Run chmod 600 {path}"), stacklevel=2)
            return file.read(MAX_PIN_BYTES + 1), change_stamp(path, status) if is_regular else ""
    except OSError as error:
        hint = "Name a file that you can read"
        raise PinError(f"can't read PIN file {path}: {error.strerror}", hint) from error


def _is_given(path: str, status: os.stat_result) -> bool:
    from hwsigner._system.systemd import is_systemd_credential

    return is_systemd_credential(path, status)
