"""Where audit lines go: a file that may be rotated, the journal, or stderr."""

from __future__ import annotations

import errno
import json
import os
import select
from datetime import UTC, datetime
from typing import Protocol

from hwsigner.errors import printable
from hwsigner.system.files import file_id
from hwsigner.system.systemd import INFO, has_journal, is_journal, send_entry

Fields = dict[str, str | int]

_STDERR = 2
# A pipe that is ready takes this many bytes at once, and may block for more (pipe(7)).
_PIPE_BYTES = 4096
_MAX_EXECUTABLE = 100
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW


class Place(Protocol):
    """A place for lines."""

    def check(self) -> None:
        """Raise an OSError if lines can't be written."""

    def write(self, message: str, fields: Fields) -> None:
        """Write a line; raises an OSError if it is not written whole."""


def open_place(name: str) -> Place:
    """Return the place of a name: `journal`, `stderr`, or the path of a file."""
    if name == "journal":
        return _JournalPlace()
    return _StderrPlace() if name == "stderr" else _FilePlace(name)


def _line(message: str, fields: Fields) -> bytes:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": time, "message": message, **_printable(fields)}).encode() + b"\n"


def _printable(fields: Fields) -> Fields:
    return {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}


def _cut(name: str, value: str | int) -> str | int:
    """Return the end of a path that anyone can make long, and any other value as it is."""
    return value[-_MAX_EXECUTABLE:] if isinstance(value, str) and name.endswith("executable") else value


class _FilePlace:
    """A file, made with mode 0600. Once it has been renamed, lines go to a new one. Each line is one write."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._id: tuple[int, int] | None = None
        self._is_torn = False

    def check(self) -> None:
        self._open()

    def write(self, message: str, fields: Fields) -> None:
        descriptor = self._open()
        # After a part of a line, as of a full disk, the next one begins on a line of its own.
        line = (b"\n" if self._is_torn else b"") + _line(message, fields)
        written = os.write(descriptor, line)
        self._is_torn = 0 < written < len(line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        if self._descriptor is not None and self._id == file_id(self._path):
            return self._descriptor
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        descriptor, status = _open_own(self._path)
        self._descriptor, self._id, self._is_torn = descriptor, (status.st_dev, status.st_ino), False
        return self._descriptor


def _open_own(path: str) -> tuple[int, os.stat_result]:
    """Open a file for lines. In a folder that others can write, a link or file of theirs could be in its place."""
    try:
        descriptor = os.open(path, _FLAGS, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link") from None
        raise
    status = os.fstat(descriptor)
    try:
        owners = {0, os.geteuid(), os.stat(os.path.dirname(path)).st_uid}
        if status.st_uid not in owners:
            raise PermissionError(errno.EPERM, f"it belongs to user {status.st_uid}")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, status


class _JournalPlace:
    def check(self) -> None:
        if not has_journal():
            raise FileNotFoundError(errno.ENOENT, "this system has no journal")

    def write(self, message: str, fields: Fields) -> None:
        send_entry(message, INFO, _printable(fields))


class _StderrPlace:
    """stderr as it is when the place is checked: later, output of native libraries may be hidden."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def check(self) -> None:
        if self._descriptor is None:
            self._descriptor = os.dup(_STDERR)

    def write(self, message: str, fields: Fields) -> None:
        self.check()
        if self._descriptor is None:
            return
        begin = f"<{INFO}>".encode() if is_journal(self._descriptor) else b""
        line = begin + _line(message, fields)
        if len(line) > _PIPE_BYTES:
            line = begin + _line(message, {name: _cut(name, value) for name, value in fields.items()})
        if len(line) > _PIPE_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if not any(event & select.POLLOUT for _, event in poll.poll(0)):
            raise BlockingIOError(errno.EAGAIN, "nothing reads it")
        if os.write(self._descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
