"""Sockets: those that a program gets passed, one bound in an open folder, notices of its removal, and who has left."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

# For `send`: no SIGPIPE if the client has left. On macOS it is left to Python, which ignores that signal.
NO_SIGNAL: Final = 0 if sys.platform == "darwin" else socket.MSG_NOSIGNAL


def take_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd or launchd passed to this process, and remove systemd's variables."""
    from hwsigner._system import systemd

    found = systemd.take_sockets(environ)
    if sys.platform == "darwin" and not found:
        from hwsigner._system import launchd

        return launchd.take_sockets()
    return found


def bind_in(sock: socket.socket, folder: int, path: str) -> None:
    """Bind a Unix socket in an open folder.

    bind(2) takes no folder, and another user may have replaced the path's meanwhile. macOS follows it: if it leads
    elsewhere, this is an error, and the socket is removed.
    """
    name = os.path.basename(path)
    if sys.platform != "darwin":
        sock.bind(f"/proc/self/fd/{folder}/{name}")
        return
    sock.bind(path)
    try:
        is_there = os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), os.lstat(path))
    except FileNotFoundError:
        is_there = False
    if not is_there:
        with suppress(OSError):
            os.unlink(path)
        raise OSError(errno.ENOENT, "the folder was replaced")


def report_removals(folder: int) -> None:
    """Have the kernel send SIGIO when a file is removed from an open folder, if kernel and file system can.

    macOS can't.
    """
    if sys.platform != "darwin":
        with suppress(OSError):
            fcntl.fcntl(folder, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT)


def has_left(sock: socket.socket) -> bool:
    """Return whether the other end has closed a connection, or its half of it."""
    poll = select.poll()
    if sys.platform == "darwin":
        poll.register(sock, select.POLLHUP)  # It comes with the half.
    else:
        poll.register(sock, select.POLLRDHUP)  # POLLHUP and POLLERR too, which can't be left out.
    return bool(poll.poll(0))
