"""Files that must not be another user's to write: what they say is believed."""

from __future__ import annotations

import os
import stat

from hwsigner.errors import HwsignerError


def check_only_mine(path: str, status: os.stat_result, error: type[HwsignerError]) -> None:
    """Check that nobody but this user and root can write a regular file.

    Args:
        path: its path, for the message.
        status: its status, of the opened file.
        error: the class to raise.

    Raises:
        HwsignerError: as the class `error`.
    """
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise error(f"{path} has mode {mode:04o}: others can write it", f"Run chmod go-w {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise error(f"{path} belongs to user {status.st_uid}, who can write it", "Let it belong to you or root")
