"""Where agents listen: a socket in the user's runtime folder, and one for the whole system. Never in /tmp.

A folder is trusted for its owner, who alone can put a socket there; whoever is at the other end must be that owner, or
root: systemd, where it listens for the agent.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Mapping
from typing import NamedTuple

SYSTEM_FOLDER = "/run/hwsigner"
# `none`: no agent is asked or started. `asked`: hwsigner-credentials has asked them, and none is asked again. Any other
# value is as if it was not set.
VARIABLE = "HWSIGNER_AGENT"
_CREDENTIALS = struct.Struct("iII")


class Place(NamedTuple):
    """Where an agent listens: a folder, and whether it is the system's."""

    folder: str
    is_systems: bool

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return f"{self.folder}/agent.sock"

    def owner(self) -> int | None:
        """Return the uid whose folder it is, or None if it is none to be trusted, or missing."""
        try:
            status = os.lstat(self.folder)
        except OSError:
            return None
        is_closed = stat.S_ISDIR(status.st_mode) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        is_mine = status.st_uid == os.geteuid()
        return status.st_uid if is_closed and (is_mine or self.is_systems) else None


def runtime_folder(environ: Mapping[str, str]) -> str:
    """Return the user's runtime folder, which need not exist: XDG_RUNTIME_DIR if it is absolute, else systemd's."""
    folder = environ.get("XDG_RUNTIME_DIR", "")
    return folder if folder.startswith("/") else f"/run/user/{os.geteuid()}"


def user_place(environ: Mapping[str, str]) -> Place:
    """Return where the user's agent listens."""
    return Place(f"{runtime_folder(environ)}/hwsigner", is_systems=False)


def system_place() -> Place:
    """Return where the system's agent listens."""
    return Place(SYSTEM_FOLDER, is_systems=True)


def may_ask(environ: Mapping[str, str]) -> bool:
    """Tell whether agents are to be asked: `native/credentials.c` has the same rule."""
    return environ.get(VARIABLE) not in ("none", "asked")


def may_start(environ: Mapping[str, str]) -> bool:
    """Tell whether an agent may be started."""
    return environ.get(VARIABLE) != "none"


def peer_uid(sock: socket.socket) -> int:
    """Return the user at the other end of a connection: of a listener, who called `listen`.

    Raises:
        OSError: it can't be told.
    """
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid
