"""The audit log: a line of JSON for each set of credentials and each process or user that gets it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Hashable
from typing import Protocol

from hwsigner.errors import AuditError
from hwsigner.monitoring.audit_places import Fields, Place, open_place
from hwsigner.system.processes import executable_of, find_process

# Of one set of credentials. With more, some lines are written again.
MAX_ASKERS = 4096
# hwsigner-credentials, as the kernel cuts its name: it asks once, for the program that ran it.
_HELPER = "hwsigner-creden"
# The first step for the user, by the reason that a line can't be written.
_STEPS = {errno.ENOSPC: "Make room", errno.EDQUOT: "Make room", errno.ENOENT: "Make the folder"}


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
        if self._has_given(profile, access_key_id, who):
            return
        fields: Fields = {
            "profile": profile,
            "access_key_id": access_key_id,
            "certificate_serial": "" if serial is None else f"{serial:x}",
            "session_arn": credentials.assumed_role_arn,
            "request_id": credentials.request_id,
            **describe(),
        }
        with self._lock:
            if self._has_given(profile, access_key_id, who):
                return  # By another thread.
            try:
                self._place.write("credentials given", {name: value for name, value in fields.items() if value != ""})
            except OSError as error:
                self._fail(error)
                return
            if self._is_failing:
                self._is_failing = False
                self._log(f"audit lines are written to {self._name} again")
            given = self._given.get(profile)
            if given is None or given[0] != access_key_id or len(given[1]) >= MAX_ASKERS:
                self._given[profile] = given = (access_key_id, set())
            given[1].add(who)

    def _has_given(self, profile: str, access_key_id: str, who: Hashable) -> bool:
        given = self._given.get(profile)
        return given is not None and given[0] == access_key_id and who in given[1]

    def give_process(
        self, profile: str, credentials: AuditedCredentials, uid: int, pid: int, *, for_parent: bool = False
    ) -> None:
        """Write the line for a process of this machine; see `give`.

        It may ask for the process that ran it, its parent, as hwsigner-credentials does in any case.
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
