"""Sockets that systemd passes to a program (sd_listen_fds(3)), and what it is told (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

from hwsigner.errors import UsageError

_FIRST_DESCRIPTOR = 3


def take_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd passed to this process, and take them out of the environment.

    Raises:
        UsageError: one is no socket.
    """
    count, process = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not _is_number(count):
        return []
    found: list[socket.socket] = []
    try:
        for index in range(int(count)):
            found.append(socket.socket(fileno=_FIRST_DESCRIPTOR + index))
            found[-1].set_inheritable(False)
    except OSError:
        for one in found:
            one.close()
        raise UsageError("systemd passed what is no socket", "Write ListenStream= in a socket unit") from None
    return found


class Notifier:
    """Tells systemd how the program is, by a datagram with a line for each fact, if it asked to be told.

    What it asked is taken out of the environment.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        microseconds, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_watched = _is_number(microseconds) and process in ("", str(os.getpid()))
        # Half of what systemd allows, in seconds; None where it watches nobody.
        self.watchdog_interval = int(microseconds) / 2_000_000 if is_watched and self._address else None

    def tell(self, *facts: str) -> None:
        """Send facts, such as `READY=1`. Where nobody listens nothing happens."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto("\n".join(facts).encode(), self._address)

    def ready(self, status: str) -> None:
        """Tell that requests are answered."""
        self.tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Tell that the configuration is being read anew; `ready` follows."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Tell that no more requests are taken."""
        self.tell("STOPPING=1", "STATUS=answering those who wait")

    def alive(self) -> None:
        """Tell the watchdog that the loop runs."""
        self.tell("WATCHDOG=1")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
