"""Connections over loopback, made by this process or by another user."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from hwsigner._system.loopback import Address

NOBODY = 65534
# Debian's: other users may not be able to run the one of a virtual environment.
PYTHON = "/usr/bin/python3"

# Family, listening address, and the address to connect to, if it is another.
KINDS = [
    (socket.AF_INET, "127.0.0.1", None),
    (socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1"),
    (socket.AF_INET6, "::1", None),
    (socket.AF_INET6, "::", "127.0.0.1"),
]


def pair(family: int, address: str, to: str | None = None) -> tuple[socket.socket, socket.socket, socket.socket]:
    """Return a listening socket, a client that has connected to it, and the accepted connection."""
    listener = socket.create_server((address, 0), family=family, dualstack_ipv6=address == "::")
    client = socket.create_connection((to or address, listener.getsockname()[1]))
    accepted, _ = listener.accept()
    return listener, client, accepted


@contextmanager
def connection_of(user: int) -> Iterator[socket.socket]:
    """Yield this process's end of a connection that a process of another user makes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(1)"
        port = str(listener.getsockname()[1])
        with subprocess.Popen([PYTHON, "-I", "-c", code, port], user=user) as process:
            accepted, _ = listener.accept()
            with accepted:
                yield accepted
            assert process.wait(20) == 0


def ends_of(accepted: socket.socket) -> tuple[Address, Address]:
    """Return the client's end of a connection, and the server's."""
    return accepted.getpeername()[:2], accepted.getsockname()[:2]
