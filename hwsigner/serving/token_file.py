"""The token of a container endpoint, in a file that only its owner reads, and that stays when the server ends.

The AWS SDKs read the file again at each fetch, and send what it holds as the `Authorization` header.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from hwsigner.errors import HwsignerError

_TOKEN = re.compile(rb"[!-~]{32,1024}")


def token_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder for tokens: in XDG_RUNTIME_DIR, if that is this user's; else where state is kept.

    The runtime folder lies in memory, and the clients that were told of it end with it. A service of systemd's has none
    that would stay.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _is_mine(runtime):
        base = runtime
    else:
        service = environ.get("STATE_DIRECTORY", "").partition(":")[0]
        places = (environ.get("XDG_STATE_HOME", ""), service)
        home = environ.get("HOME") or os.path.expanduser("~")
        base = next(filter(os.path.isabs, places), os.path.join(home, ".local", "state"))
    return Path(base, "hwsigner", "serve")


def keep_token(folder: Path, name: str) -> tuple[Path, bytes]:
    """Return the path of a profile's token file and the token; a file that is missing is made, of mode 0600.

    Args:
        folder: where it is; made with mode 0700 if need be.
        name: the profile's name.

    Raises:
        HwsignerError: it can't be made or read, others can read it, or it holds no token.
    """
    path = folder / f"{quote(name, safe='')}.token"
    with _telling(path):
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            _make(path)
        return path, _read(path)


def new_token() -> bytes:
    """Return a token: 43 characters that carry 256 bits of chance."""
    return secrets.token_urlsafe(32).encode()


def _make(path: Path) -> None:
    """Write a new token and give the file its name: whole, even if the power fails, and to the first of two servers."""
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb", opener=_private) as file:
            file.write(new_token())
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # Some file systems can't.
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise HwsignerError(
                f"{path} of mode {mode:04o} is no file that only you can read", "Remove it, and a new one is made"
            )
        token = file.read(4096)
    if not _TOKEN.fullmatch(token):
        hint = "Remove it, and a new one is made; a token has 32 characters or more, no space and no newline"
        raise HwsignerError(f"{path} holds no token", hint)
    return token


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Name another folder with --token-folder"
        raise HwsignerError(f"can't keep a token in {path}: {error.strerror}", hint) from error


def _is_mine(folder: str) -> bool:
    try:
        status = os.stat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
