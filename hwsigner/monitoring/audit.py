"""The audit log: a line of JSON for each set of credentials and each process or user that gets it.

The lines go to a file that may be rotated, to the journal, or to stderr.
"""

from __future__ import annotations

import errno
import json
import os
import select
import threading
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from hwsigner.errors import AuditError, printable
from hwsigner.system.files import file_id
from hwsigner.system.processes import executable_of, find_process
from hwsigner.system.systemd import INFO, has_journal, is_journal, send_entry

Fields = dict[str, str | int]

# Of one set of credentials. With more, some lines are written again.
MAX_ASKERS = 4096
# hwsigner-credentials, as the kernel cuts its name: it asks once, for the program that ran it.
_HELPER = "hwsigner-creden"
# The first step for the user, by the reason that a line can't be written.
_STEPS = {errno.ENOSPC: "Make room", errno.EDQUOT: "Make room", errno.ENOENT: "Make the folder"}

_STDERR = 2
# A pipe that is ready takes this many bytes at once, and may block for more (pipe(7)).
_PIPE_BYTES = 4096
_MAX_EXECUTABLE = 100
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
    lines can be written again, and the line is attempted again when the same process asks again.

    Args:
        place: a path, `journal` or `stderr`.
        required: whether no credentials may be given without their line.
        log: takes the warnings.

    Raises:
        AuditError: the place can't be opened, and it is required.
    """

    def __init__(self, place: str, *, required: bool, log: Callable[[str], None]) -> None:
        self._name = place
        self._place: Place = open_place(place)
        self._required = required
        self._log = log
        self._lock = threading.Lock()
        self._is_failing = False
        # By profile: the access key ID of the set that was given last, and those that got it.
        self._given: dict[str, tuple[str, set[Hashable]]] = {}
        try:
            self._place.check()
        except OSError as error:
            self._fail(error)

    def give(
        self, profile: str, credentials: AuditedCredentials, who: Hashable, describe: Callable[[], Fields]
    ) -> None:
        """Write the line for credentials that are about to be given out, unless this one has got them before.

        Args:
            profile: the profile's name, which may be empty.
            credentials: the set.
            who: what tells those who ask apart.
            describe: returns the fields of the line that say who asks.

        Raises:
            AuditError: the line can't be written, and it is required.
        """
        access_key_id, serial = credentials.access_key_id, credentials.certificate_serial
        with self._lock:
            last_id, askers = self._given.get(profile, ("", set[Hashable]()))
            if last_id == access_key_id and who in askers:
                return
            fields: Fields = {
                "profile": profile,
                "access_key_id": access_key_id,
                "certificate_serial": "" if serial is None else f"{serial:x}",
                "session_arn": credentials.assumed_role_arn,
                "request_id": credentials.request_id,
                **describe(),
            }
            try:
                self._place.write("credentials given", printable_fields(fields))
            except OSError as error:
                self._fail(error)
                return
            if self._is_failing:
                self._is_failing = False
                self._log(f"audit lines are written to {self._name} again")
            if last_id != access_key_id or len(askers) >= MAX_ASKERS:
                askers = set()
                self._given[profile] = access_key_id, askers
            askers.add(who)

    def give_process(
        self, profile: str, credentials: AuditedCredentials, uid: int, pid: int, *, for_parent: bool = False
    ) -> None:
        """Write the line for a process of this machine; see `give`.

        Args:
            profile: the profile's name.
            credentials: the set.
            uid: the user.
            pid: the process.
            for_parent: whether it asks for the process that ran it, as hwsigner-credentials does in any case.
        """
        process = asks = find_process(pid)
        parent = None
        if process and (for_parent or process.name in (_HELPER, "hwsigner")):
            parent = find_process(process.parent)
            if for_parent or process.name == _HELPER:
                asks = parent or process
        who = (uid, asks.pid, asks.started) if asks else (uid, pid, 0)

        def describe() -> Fields:
            fields: Fields = {"uid": uid, "pid": pid, "executable": executable_of(pid)}
            if parent:
                fields |= {"parent_pid": parent.pid, "parent_executable": executable_of(parent.pid)}
            return fields

        self.give(profile, credentials, who, describe)

    def _fail(self, error: OSError) -> None:
        problem = f"the audit log {self._name} can't be written: {error.strerror or error}"
        if self._required:
            step = _STEPS.get(error.errno or 0, "Name a file that this user can write")
            raise AuditError(f"{problem}, and it is required", f"{step}, or see audit in hwsigner help monitoring")
        if not self._is_failing:
            self._is_failing = True
            self._log(f"warning: {problem}. Credentials are given without audit lines")


def open_audit(place: str | None, audit: str, log: Callable[[str], None]) -> Audit | None:
    """Return the audit log that `hwsigner.config.monitoring` says, or None for none; raises as `Audit`."""
    return Audit(place, required=audit == "required", log=log) if place else None


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
        self._descriptor, self._id = descriptor, (status.st_dev, status.st_ino)
        self._is_torn = _is_torn(descriptor, status.st_size)
        return self._descriptor


def _is_torn(descriptor: int, size: int) -> bool:
    """Return whether a file ends in a part of a line, as another program leaves it on a full disk."""
    if size:  # A pipe or device has none.
        # The same file, whatever its path names by now. One that can't be read is taken as whole.
        with suppress(OSError), open(f"/proc/self/fd/{descriptor}", "rb", buffering=0) as file:
            file.seek(size - 1)
            return file.read(1) != b"\n"
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

    def check(self) -> None:
        if self._descriptor < 0:
            self._descriptor = os.dup(_STDERR)

    def write(self, message: str, fields: Fields) -> None:
        self.check()
        begin = f"<{INFO}>".encode() if is_journal(self._descriptor) else b""
        line = begin + _line(message, fields)
        if len(line) > _PIPE_BYTES:
            # Anyone can make a path long: its end is enough.
            cut = {name: str(path)[-_MAX_EXECUTABLE:] for name, path in fields.items() if name.endswith("executable")}
            line = begin + _line(message, {**fields, **cut})
        if len(line) > _PIPE_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if not takes_now(self._descriptor):
            raise BlockingIOError(errno.EAGAIN, "nothing reads it")
        if os.write(self._descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
