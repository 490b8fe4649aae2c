"""Ports for servers that must be told theirs."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from contextlib import suppress

# Below those that the kernel hands out for port 0, as port 0 is what everybody else here asks for.
_PORTS = range(20000, 32000)
_reserved: set[int] = set()


def reserve_port() -> int:
    """Return a port that is free on 127.0.0.1 and ::1, and that no other test gets while this process runs."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if port in _reserved:
            continue
        with suppress(OSError):
            fcntl.lockf(_marks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                socket.create_server((address, port), family=family).close()
            _reserved.add(port)
            return port
    raise AssertionError("no port is free")


@functools.cache
def _marks() -> int:
    """Open the file in which each process of this user locks a byte for each of its ports."""
    path = os.path.join(tempfile.gettempdir(), f"hwsigner-test-ports-{os.geteuid()}")
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
