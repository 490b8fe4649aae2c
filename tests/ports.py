"""Ports for servers that must be told theirs."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

# Below those that the kernel hands out for port 0, as port 0 is what everybody else here asks for.
_PORTS = range(20000, 32000)
_reserved: list[socket.socket] = []


def reserve_port() -> int:
    """Return a port that is free on 127.0.0.1 and ::1, and that no other test gets while this process runs."""
    for port in random.sample(_PORTS, len(_PORTS)):
        mark = socket.socket(socket.AF_UNIX)
        with suppress(OSError):
            mark.bind(f"\0hwsigner-test-port-{port}")
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                socket.create_server((address, port), family=family).close()
            _reserved.append(mark)
            return port
        mark.close()
    raise AssertionError("no port is free")
