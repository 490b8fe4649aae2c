"""The log, the audit log and the metrics of a command, by its flags and the table `[monitoring]` of config.toml."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hwsigner.cli.parser import Arguments
from hwsigner.cli.process import report, report_to
from hwsigner.config.monitoring import Monitoring, read_monitoring
from hwsigner.errors import AuditError
from hwsigner.system.systemd import ERROR, line_priority

if TYPE_CHECKING:
    from hwsigner.aws.credentials import Credentials
    from hwsigner.identity.certificate import Certificate
    from hwsigner.monitoring.audit import Audit
    from hwsigner.monitoring.log import Log
    from hwsigner.monitoring.metrics import Metrics
    from hwsigner.refresh.background import BackgroundProvider
    from hwsigner.refresh.outcome import Failure
    from hwsigner.serving.peer import Peer


class Watch:
    """Writes audit lines about sessions and those who get them, and counts sessions and failures. Thread-safe.

    Args:
        audit: the audit log, or None for none.
        log: takes a line for each answer if it wants the level debug.

    Attributes:
        metrics: counts, unless it is None.
    """

    def __init__(self, audit: Audit | None, log: Log) -> None:
        self._audit = audit
        self._log = log
        self.metrics: Metrics | None = None

    @property
    def wants_given(self) -> bool:
        """Whether `given` has to be called."""
        return self._audit is not None or self._log.has_debug

    def issued(self, profile: str, credentials: Credentials, source: BackgroundProvider) -> None:
        """Record a session, before its credentials are given out."""
        if self._audit:
            leaf = source.leaf
            record_session(self._audit, profile, credentials, leaf.x509.serial_number if leaf else None)

    def tried(self, profile: str, outcome: Credentials | Failure, source: BackgroundProvider) -> None:
        """Count an attempt to create a session."""
        if self.metrics is None:
            return
        if source.request_seconds is not None:
            self.metrics.took(source.request_seconds)
        if (failure := source.failure) is not None:
            self.metrics.failed(profile, failure.cause)
        else:
            leaf = source.leaf
            dates = (leaf.x509.not_valid_before_utc, leaf.x509.not_valid_after_utc) if leaf else None
            self.metrics.succeeded(profile, time.time(), dates)

    def given(self, profile: str, access_key_id: str, uid: int, pid: int) -> None:
        """Write that a process gets credentials; raises AuditError if they must not be given."""
        if self._audit:
            try:
                self._audit.give_process(profile, access_key_id, uid, pid)
            except AuditError as error:
                text = f"profile {profile!r}: user {uid} was refused: {error.message}"
                self._log.refused(text, profile=profile, cause=error.cause, uid=uid, pid=pid)
                raise
        if self._log.has_debug:
            text = f"profile {profile!r}: credentials given to user {uid}, process {pid}"
            self._log.debug(text, profile=profile, access_key_id=access_key_id, uid=uid, pid=pid)

    def giver(self, profile: str) -> Callable[[str, Peer], None] | None:
        """Return what is called before a client of `serve` gets a profile's credentials; None if nobody watches."""
        write = give_to_peers(self._audit, profile) if self._audit else None
        if not self._log.has_debug:
            return write

        def give(access_key_id: str, peer: Peer) -> None:
            if write:
                write(access_key_id, peer)
            address, port = peer.client
            text = f"{profile}: credentials given to {address}, port {port}"
            self._log.debug(text, profile=profile, access_key_id=access_key_id, address=address, port=port)

        return give


def give_to_peers(audit: Audit, profile: str) -> Callable[[str, Peer], None]:
    """Return a function that writes the audit line for the client of a connection.

    The kernel tells the user at the other end, and not the process: so there is a line for each user. From another
    machine, there is one for each address.
    """

    def give(access_key_id: str, peer: Peer) -> None:
        try:
            uid = peer.uid if peer.is_local else None
        except OSError:
            uid = None
        address, port = peer.client
        who = address if uid is None else uid
        audit.give(
            profile,
            access_key_id,
            who,
            lambda: {"uid": "" if uid is None else uid, "address": address, "port": port},
        )

    return give


def record_session(audit: Audit, profile: str, credentials: Credentials, serial: int | None) -> None:
    """Let the audit log know a session."""
    audit.issued(
        profile,
        credentials.access_key_id,
        serial=serial,
        session_arn=credentials.assumed_role_arn,
        request_id=credentials.request_id,
    )


def own_audit() -> Audit | None:
    """Return the audit log of a command that creates sessions for itself, or None if config.toml has none.

    Raises:
        AuditError: it can't be opened, and it is required.
        ConfigError: config.toml is invalid.
    """
    found = read_monitoring(os.environ)
    if not found.audit_log:
        return None
    from hwsigner.monitoring.audit import open_audit

    return open_audit(found.audit_log, found.audit, report)


def audit_own(
    audit: Audit, profile: str, credentials: Credentials, leaf: Certificate | None, *, for_parent: bool
) -> None:
    """Write the line for credentials that this process created.

    Args:
        audit: the audit log.
        profile: the profile's name, or an empty string.
        credentials: the credentials.
        leaf: the certificate.
        for_parent: whether they are for the process that ran this one.

    Raises:
        AuditError: the line can't be written, and it is required.
    """
    record_session(audit, profile, credentials, leaf.x509.serial_number if leaf else None)
    audit.give_process(profile, credentials.access_key_id, os.geteuid(), os.getpid(), for_parent=for_parent)


def open_log(found: Monitoring) -> Log:
    """Return the log of a command that stays. If it is not plain text, `report` writes to it too."""
    from hwsigner.monitoring.log import Log

    log = Log(level=found.log_level, format=found.log_format)
    if not log.is_text or found.log_level != "info":
        report_to(lambda line: log.note(line, line_priority(line, ERROR)))
    return log


def monitoring(arguments: Arguments, environ: Mapping[str, str] = os.environ) -> Monitoring:
    """Return the values of the flags for logs and the audit log; raises as `read_monitoring`."""
    return read_monitoring(environ, vars(arguments))
