"""Users of this machine: by name or number, and at the other end of a Unix socket."""

from __future__ import annotations

import pwd
import socket
import struct

_CREDENTIALS = struct.Struct("iII")


def find_uid(user: str) -> int | None:
    """Return the uid of a user, or None if this machine has no such user. A number is returned as it is."""
    try:
        return int(user) if user.isascii() and user.isdigit() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: a zero byte in the name, or a number of thousands of digits.
        return None


def peer_uid(sock: socket.socket) -> int:
    """Return the uid at the other end of a Unix socket; of a listener's, that of the process that called `listen`.

    Raises:
        OSError: the kernel can't tell.
    """
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(data)[1]
    return uid
