"""The tokens of the container endpoint, in files that only their owner can read and that stay when the server ends.

The AWS SDKs read the file at each fetch, and send its content as the `Authorization` header. While the server is down,
another user may hold its port and so collect the token. Therefore a server that has the port makes a new one.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from hwsigner._system.environment import home_folder, is_usable, temporary_folders
from hwsigner._system.files import sync_folder
from hwsigner.errors import HwsignerError

_TOKEN = re.compile(rb"[!-~]{32,1024}")
# Begins each token that was made here, to tell it from those that the user wrote.
_MADE = b"hwsigner_"


def token_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder for tokens: in XDG_RUNTIME_DIR, if that is this user's; else where state is kept, else in /tmp.

    The runtime folder is in memory, and clients that were told of it end with it. A systemd service has no runtime
    folder that would stay. A home folder may be read-only or missing, as on build agents.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _is_mine(runtime):
        base = runtime
    else:
        service = environ.get("STATE_DIRECTORY", "").partition(":")[0]
        home = os.path.join(home_folder(environ), ".local", "state")
        base = next(filter(os.path.isabs, (environ.get("XDG_STATE_HOME", ""), service, home)))
    folder = Path(base, "hwsigner", "serve")
    if not _can_make(folder):
        usable = filter(is_usable, temporary_folders())  # Another user may have made one of these.
        folder = next((Path(place, "serve") for place in usable), folder)
    return folder


class TokenFile:
    """A profile's token and its file. A missing file is created, with mode 0600.

    `is_new` replaces a token that was made before; one that the user wrote stays. A folder that is missing gets mode
    0700. A file that others can read, or that has no token, is an error.
    """

    def __init__(self, folder: Path, name: str, *, is_new: bool) -> None:
        self.path = folder / f"{quote(name, safe='')}.token"
        self._token = _keep(self.path, is_new=is_new)

    def matches(self, sent: bytes) -> bool:
        """Return whether this is the token. If not, read the file again: another server may have replaced the token."""
        if not hmac.compare_digest(sent, self._token):
            with suppress(OSError, HwsignerError):
                self._token = _read(self.path)
        return hmac.compare_digest(sent, self._token)


def keep_imds_key(folder: Path) -> bytes:
    """Return the secret that IMDS tokens are made from. Its file is beside the tokens and stays, as IMDS tokens do."""
    return _keep(folder / "imds.key", is_new=False)


def new_token() -> bytes:
    """Return a token: 43 characters with 256 random bits."""
    return secrets.token_urlsafe(32).encode()


def _keep(path: Path, *, is_new: bool) -> bytes:
    """Return the content of a token file, which is created if it is missing."""
    try:
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            _create(path, os.link)
        elif is_new and _read(path).startswith(_MADE):
            _create(path, os.replace)
        return _read(path)
    except OSError as error:
        hint = "Give another folder with --token-folder"
        raise HwsignerError(f"can't keep a token in {path}: {error.strerror}", hint) from error


def _create(path: Path, place: Callable[[Path, Path], None]) -> None:
    """Create a token file: whole, even if the power fails. With a link, the first of two servers wins."""
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(_MADE + new_token())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(str(path.parent))


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            problem = f"{path} with mode {stat.S_IMODE(status.st_mode):04o} is not a file that only you can read"
            raise HwsignerError(problem, "Remove it, and start the server again to create a new one")
        token = file.read(4096)
    if not _TOKEN.fullmatch(token):
        problem = f"{path} does not contain a token of 32 characters or more, without spaces and newlines"
        raise HwsignerError(problem, "Remove it, and start the server again to create a new one")
    return token


def _can_make(folder: Path) -> bool:
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _is_mine(folder: str) -> bool:
    try:
        status = os.stat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
