"""Connections over loopback, of this process and of another user."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from hwsigner.serving.peer import Address

NOBODY = 65534
# Debian's: that of a virtual environment may lie where others can't look.
PYTHON = "/usr/bin/python3"

# Family, where one listens, and where the other connects to, if not there.
KINDS = [
    (socket.AF_INET, "127.0.0.1", None),
    (socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1"),
    (socket.AF_INET6, "::1", None),
    (socket.AF_INET6, "::", "127.0.0.1"),
]


def pair(family: int, address: str, to: str | None = None) -> tuple[socket.socket, socket.socket, socket.socket]:
    """Return a listener, who connected to it, and its end of that."""
    listener = socket.create_server((address, 0), family=family, dualstack_ipv6=address == "::")
    client = socket.create_connection((to or address, listener.getsockname()[1]))
    accepted, _ = listener.accept()
    return listener, client, accepted


@contextmanager
def connection_of(user: int) -> Iterator[socket.socket]:
    """Give this end of a connection that a process of another user makes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(1)"
        port = str(listener.getsockname()[1])
        with subprocess.Popen([PYTHON, "-I", "-c", code, port], user=user) as process:
            accepted, _ = listener.accept()
            with accepted:
                yield accepted
            assert process.wait(20) == 0


def ends_of(accepted: socket.socket) -> tuple[Address, Address]:
    """Return the other end of a connection, and this one."""
    return Address(*accepted.getpeername()[:2]), Address(*accepted.getsockname()[:2])


def knows_nothing(own: Address, other: Address) -> None:
    """Answer as a kernel without sock_diag for TCP does."""
