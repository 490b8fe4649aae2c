"""The audit log: a line of JSON each time that credentials are given out.

The lines go to a file that may be rotated, to the journal, or to stderr.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from hwsigner._system.descriptors import reopen
from hwsigner._system.files import file_id
from hwsigner._system.processes import describe_process
from hwsigner._system.systemd import INFO, has_journal, is_journal, send_entry
from hwsigner.errors import AuditError, printable

Fields = dict[str, str | int]

# The first step for the user, by the reason that a line can't be written.
_STEPS = {errno.ENOSPC: "Make room", errno.EDQUOT: "Make room", errno.ENOENT: "Make the folder"}

_STDERR = 2
# A pipe that is ready takes this many bytes at once, and may block for more (pipe(7)).
_PIPE_BYTES = 4096
_MOST_PODS = 10_000  # Whose last line is kept in mind; a Pod that is not has a line more.
# Much longer than a write of one line takes.
_WRITE_SECONDS = 0.02
_PATHS, _MAX_PATH = {"executable", "parent_executable", "cgroup"}, 50
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW


class AuditedCredentials(Protocol):
    """What a line says of a set of credentials. Without an ID, none are given."""

    @property
    def access_key_id(self) -> str:
        """The set's ID."""

    @property
    def certificate_serial(self) -> int | None:
        """The serial number of the certificate, if it is known."""

    @property
    def assumed_role_arn(self) -> str:
        """The ARN of the session; empty if it is not known, like the next."""

    @property
    def request_id(self) -> str:
        """The service's number of the request."""


class Audit:
    """Writes the lines. Thread-safe.

    A line that can't be written is an error if the audit log is required. Otherwise a warning is logged once, until
    lines can be written again.

    Args:
        place: a path, `journal` or `stderr`.
        required: whether no credentials may be given without their line.
        log: takes the warnings.
        rate: how many lines a user may cause in a minute. Above it, it is as if no line can be written. The user's next
            line has the number of those left out.
        clock: returns seconds.

    Raises:
        AuditError: the place can't be opened, and it is required.
    """

    def __init__(
        self,
        place: str,
        *,
        required: bool,
        log: Callable[[str], None],
        rate: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = place
        self._place: Place = open_place(place)
        self._required = required
        self._log = log
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._is_failing = False
        self._minute = 0
        self._written: Counter[int | str] = Counter()  # By user, in this minute.
        self._left_out: Counter[int | str] = Counter()  # By user, since the user's last line.
        self._last: dict[str, tuple[str, int]] = {}  # By Pod, the ID of its last line, and how often it asked again.
        try:
            self._place.check()
        except OSError as error:
            self._fail(error)

    def give(
        self, profile: str, credentials: AuditedCredentials, user: int | str, fields: Fields, *, pod: str = ""
    ) -> None:
        """Write the line for credentials that are about to be given out.

        `user` is whose rate it counts for: a uid, or the address of another machine. A `pod` gets one line for each set
        of credentials; its next line has how often it got the last set again. An AuditError means that the line is
        required and can't be written: the credentials must not be given.
        """
        serial, key_id = credentials.certificate_serial, credentials.access_key_id
        with self._lock:
            last, again = self._last.get(pod, ("", 0))
            if pod and last == key_id:
                self._last[pod] = last, again + 1
                return
            if not self._may_write(user):
                return
            line: Fields = {
                "profile": profile,
                "access_key_id": key_id,
                "certificate_serial": "" if serial is None else f"{serial:x}",
                "session_arn": credentials.assumed_role_arn,
                "request_id": credentials.request_id,
                **fields,
                "again": again or "",
                "left_out": self._left_out[user] or "",
            }
            try:
                self._place.write("credentials given", printable_fields(line))
            except OSError as error:
                self._fail(error)
                return
            if pod:
                self._last.pop(pod, None)
                self._last[pod] = key_id, 0
                if len(self._last) > _MOST_PODS:
                    del self._last[next(iter(self._last))]
            self._written[user] += 1
            del self._left_out[user]
            if self._is_failing:
                self._is_failing = False
                self._log(f"audit lines are written to {self._name} again")

    def give_self(self, profile: str, credentials: AuditedCredentials) -> None:
        """Write the line for credentials that this process prints or writes; see `give`."""
        uid = os.geteuid()
        self.give(profile, credentials, uid, {"uid": uid, **describe_process(os.getpid())})

    def _may_write(self, user: int | str) -> bool:
        """Return whether the user has not used up the rate; raise an AuditError if so, and lines are required."""
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute = minute
            self._written.clear()
        if self._written[user] < self._rate:
            return True
        self._left_out[user] += 1
        who = f"user {user}" if isinstance(user, int) else user
        problem = f"{who} got credentials {self._rate} times within a minute, which is the rate for audit lines"
        if self._required:
            raise AuditError(problem, "Retry in a minute, or raise audit-rate: see hwsigner help monitoring")
        if self._left_out[user] == 1:
            self._log(f"warning: {problem}. Until the minute ends, they have no audit lines")
        return False

    def _fail(self, error: OSError) -> None:
        problem = f"the audit log {self._name} can't be written: {error.strerror or error}"
        if self._required:
            step = _STEPS.get(error.errno or 0, "Name a file that this user can write")
            raise AuditError(f"{problem}, and it is required", f"{step}, or see audit in hwsigner help monitoring")
        if not self._is_failing:
            self._is_failing = True
            self._log(f"warning: {problem}. Credentials are given without audit lines")


def open_audit(place: str | None, audit: str, *, rate: int, log: Callable[[str], None]) -> Audit | None:
    """Return the audit log that `hwsigner._config.monitoring` says, or None for none; raises as `Audit`."""
    return Audit(place, required=audit == "required", log=log, rate=rate) if place else None


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
    return json.dumps({"time": written(datetime.now(UTC)), "message": message, **fields}).encode() + b"\n"


def printable_fields(fields: Mapping[str, str | int | None]) -> Fields:
    """Return the fields that say something, and what can't be printed in them escaped."""
    found = {name: value for name, value in fields.items() if value is not None and value != ""}
    return {name: printable(value) if isinstance(value, str) else value for name, value in found.items()}


def written(time: datetime) -> str:
    """Return a time in UTC as lines have it."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def takes_now(descriptor: int) -> bool:
    """Return whether a pipe, terminal or file takes a line at once."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


class _FilePlace:
    """A file, made with mode 0600. Once it has been renamed, lines go to a new one. Each line is one write."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._reader: int | None = None  # The same file, if it has bytes that this user may read.
        self._id: tuple[int, int] | None = None
        self._torn_size = 0  # Of the file, when it was last seen to end in a part of a line.
        self._has_cut = False  # Whether this program's last line was written in part.

    def check(self) -> None:
        self._open()

    def write(self, message: str, fields: Fields) -> None:
        descriptor = self._open()
        # After a part of a line, as any program leaves it on a full disk, the next one begins on a line of its own.
        is_torn = self._has_cut if self._reader is None else self._is_torn(self._reader)
        line = (b"\n" if is_torn else b"") + _line(message, fields)
        self._has_cut = os.write(descriptor, line) < len(line)
        if self._has_cut:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        if self._descriptor is not None and self._id == file_id(self._path):
            return self._descriptor
        for descriptor in (self._descriptor, self._reader):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor, self._reader, self._has_cut = None, None, False
        self._descriptor, status = _open_own(self._path)
        self._id = (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode):
            with suppress(OSError):  # Whatever the path names by now.
                self._reader = reopen(self._descriptor, self._path, os.O_RDONLY)
        return self._descriptor

    def _is_torn(self, reader: int) -> bool:
        """Return whether the file ends in a part of a line that stays."""
        while (size := os.fstat(reader).st_size) and os.pread(reader, 1, size - 1) not in (b"\n", b""):
            if size == self._torn_size:
                return True
            self._torn_size = size
            time.sleep(_WRITE_SECONDS)  # Another program may be writing it: the file system shows a write in parts.
        return False


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
        send_entry(message, INFO, fields)


class _StderrPlace:
    """stderr as it is when the place is checked: later, output of native libraries may be hidden."""

    _descriptor = -1
    _has_cut = False

    def check(self) -> None:
        if self._descriptor < 0:
            self._descriptor = os.dup(_STDERR)

    def write(self, message: str, fields: Fields) -> None:
        self.check()
        begin = f"<{INFO}>".encode() if is_journal(self._descriptor) else b""
        line = begin + _line(message, fields)
        if len(line) > _PIPE_BYTES:
            # A client chooses its paths.
            cut = {name: str(fields[name])[-_MAX_PATH:] for name in _PATHS & fields.keys()}
            line = begin + _line(message, {**fields, **cut})
        if len(line) > _PIPE_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if not takes_now(self._descriptor):
            raise BlockingIOError(errno.EAGAIN, "nothing reads it")
        line = (b"\n" if self._has_cut else b"") + line
        self._has_cut = os.write(self._descriptor, line) < len(line)
        if self._has_cut:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
