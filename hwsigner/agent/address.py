"""Where agents listen: at a socket in the user's runtime folder, or at the system's. Never in /tmp.

Only the folder's owner can create a socket in it, so the other end must be that user; or root, as systemd may listen
for the agent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

SYSTEM_FOLDER = "/run/hwsigner"
# `none`: no agent is asked or started. `asked`: hwsigner-credentials has asked the agents, so they are not asked again.
# Any other value has no effect. `native/credentials.c` has the same rule.
VARIABLE = "HWSIGNER_AGENT"


class Address(NamedTuple):
    """Where an agent listens: a folder, and whether it is the system's agent."""

    folder: str
    is_system: bool

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return f"{self.folder}/agent.sock"

    def owner(self) -> int | None:
        """Return the uid of the folder's owner, or None if the folder is missing or can't be trusted."""
        try:
            status = os.lstat(self.folder)
        except OSError:
            return None
        is_mine = status.st_uid == os.geteuid()
        return status.st_uid if is_closed_folder(status) and (is_mine or self.is_system) else None


def is_closed_folder(status: os.stat_result) -> bool:
    """Return whether a file is a folder that only its owner can write to."""
    return stat.S_ISDIR(status.st_mode) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def runtime_folder(environ: Mapping[str, str]) -> str:
    """Return the user's runtime folder, which may be missing: XDG_RUNTIME_DIR if it is absolute, else systemd's."""
    folder = environ.get("XDG_RUNTIME_DIR", "")
    return folder if folder.startswith("/") else f"/run/user/{os.geteuid()}"


def user_address(environ: Mapping[str, str]) -> Address:
    """Return where the user's agent listens."""
    return Address(f"{runtime_folder(environ)}/hwsigner", is_system=False)


def system_address() -> Address:
    """Return where the system's agent listens."""
    return Address(SYSTEM_FOLDER, is_system=True)
