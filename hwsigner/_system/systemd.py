"""What systemd passes to a program: sockets (sd_listen_fds(3)) and files; reports to it (sd_notify(3)); its journal."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress

from hwsigner.errors import UsageError

# Priorities of lines in the journal.
ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7
_FIRST_DESCRIPTOR = 3
_JOURNAL = "/run/systemd/journal/socket"
_BOOTED = "/run/systemd/system"
# What it hides from the system's units (ProtectHome=yes).
HOMES = ("/home/", "/root/", "/run/user/")


def is_booted() -> bool:
    """Return whether systemd runs this system (sd_booted(3))."""
    return os.path.isdir(_BOOTED)


def is_journal(descriptor: int) -> bool:
    """Return whether systemd's journal reads what is written to a descriptor (JOURNAL_STREAM in systemd.exec(5))."""
    with suppress(OSError):
        status = os.fstat(descriptor)
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def line_priority(text: str, default: int = INFO) -> int:
    """Return a line's priority for the journal, which reads it as `<3>` before the line (sd-daemon(3))."""
    return {"error": ERROR, "warning": WARNING}.get(text.partition(":")[0], default)


def has_journal() -> bool:
    """Return whether this system has a journal that takes entries."""
    return os.path.exists(_JOURNAL)


def send_entry(message: str, priority: int, fields: Mapping[str, str | int]) -> None:
    """Send an entry with fields to the journal, without waiting (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    The message and each value are one line; a long one would have to be sent as a file, which this does not do. The
    fields' names are in lower case and get the prefix `HWSIGNER_`. If the journal does not take it now, this is an
    OSError.
    """
    named = {f"HWSIGNER_{name.upper()}": value for name, value in fields.items()}
    entry = {"MESSAGE": message, "PRIORITY": priority, "SYSLOG_IDENTIFIER": "hwsigner", **named}
    data = "".join(f"{name}={value}\n" for name, value in entry.items()).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(data, _JOURNAL)


def take_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd passed to this process, and remove its variables from the environment."""
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
        raise UsageError("systemd passed a file that is not a socket", "Use ListenStream= in the socket unit") from None
    return found


def is_systemd_credential(path: str, status: os.stat_result) -> bool:
    """Return whether systemd gives a file to this unit (LoadCredential=), so that only the unit's user can read it.

    The file is root's, with an access control list that shows as mode 0440. A folder that other users can write is not
    systemd's, even if the variable names it.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not os.path.isabs(folder) or status.st_uid or status.st_gid or status.st_mode & ~0o440 != stat.S_IFREG:
        return False
    try:
        given, above = os.lstat(os.path.join(folder, os.path.basename(path))), os.stat(folder)
    except OSError:
        return False
    return os.path.samestat(given, status) and above.st_uid == 0 and not above.st_mode & 0o022


class Notifier:
    """Reports the program's state to systemd, if systemd asked for it. Its variables are removed from the environment.

    `watchdog_interval` says how often to call `alive`, in seconds: half of what systemd allows; None without a
    watchdog.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        microseconds, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_watched = _is_number(microseconds) and process in ("", str(os.getpid()))
        self.watchdog_interval = int(microseconds) / 2_000_000 if is_watched and self._address else None

    def send(self, *facts: str) -> None:
        """Send facts, such as `READY=1`, in one datagram. Do nothing if no one receives it."""
        if self._address:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto("\n".join(facts).encode(), self._address)

    def ready(self, status: str) -> None:
        """Report that requests are answered."""
        self.send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that the configuration is being read again. Call `ready` afterwards."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that no more requests are accepted."""
        self.send("STOPPING=1", "STATUS=answering the last requests")

    def alive(self) -> None:
        """Report to the watchdog that the event loop runs."""
        self.send("WATCHDOG=1")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
