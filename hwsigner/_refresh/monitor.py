"""What operators see of a process that gives out credentials: its sessions and failures, and who gets what."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwsigner._refresh.outcome import Failure
from hwsigner._system.processes import describe_peer
from hwsigner.errors import AuditError, ServiceError

if TYPE_CHECKING:
    from hwsigner._aws.credentials import Credentials
    from hwsigner._monitoring.audit import Audit
    from hwsigner._monitoring.log import Log
    from hwsigner._monitoring.metrics import Metrics
    from hwsigner._refresh.refresher import Refresher


class Monitor:
    """Logs and counts sessions and failures, and writes an audit line each time that credentials are given out.

    Thread-safe. It counts in `metrics`, unless that is None.
    """

    def __init__(self, log: Log, audit: Audit | None = None) -> None:
        self._log = log
        self._audit = audit
        self.metrics: Metrics | None = None

    @property
    def wants_given(self) -> bool:
        """Whether `given` or `given_to_peer` has to be called."""
        return self._audit is not None or self._log.has_debug

    def attempted(
        self, profile: str, outcome: Credentials | Failure, provider: Refresher, *, account: str = ""
    ) -> None:
        """Count and log a provider's attempt to create a session, and log its notices.

        `account` is the service account that the session is for, if it is not for any client.
        """
        if self.metrics:
            _count(self.metrics, profile, outcome, provider)
        if isinstance(outcome, Failure):
            error = outcome.error
            text = f"error: {_shown(profile, account)}: no session: {error}"
            request_id = outcome.request_id
            self._log.note(text, profile=profile, account=account, cause=error.cause, request_id=request_id)
        else:
            self._log_session(profile, "created", outcome, account)
            for notice in provider.notices():
                self._log.note(f"{': '.join(notice)} (profile {profile!r})", profile=profile)

    def took_over(self, profile: str, credentials: Credentials) -> None:
        """Log that the session of another process is given out from now on."""
        self._log_session(profile, "taken over", credentials)

    def _log_session(self, profile: str, what: str, credentials: Credentials, account: str = "") -> None:
        end = f"credentials until {credentials.expiration:%Y-%m-%dT%H:%M:%SZ}"
        self._log.note(
            f"{_shown(profile, account)}: session {what}, {end}",
            profile=profile,
            account=account,
            access_key_id=credentials.access_key_id,
            session_arn=credentials.assumed_role_arn,
            request_id=credentials.request_id,
        )

    def given(self, profile: str, credentials: Credentials, uid: int, sock: socket.socket) -> None:
        """Write that the process at the other end of a Unix socket is about to get credentials.

        If the line is required and can't be written, this is an AuditError: they must not be given.
        """
        fields = describe_peer(sock)
        pid = fields.get("pid")
        if self._audit:
            try:
                self._audit.give(profile, credentials, uid, {"uid": uid, **fields})
            except AuditError as error:
                text = f"profile {profile!r}: user {uid} was refused: {error.message}"
                self._log.refused(text, profile=profile, cause=error.cause, uid=uid, pid=pid)
                raise
        if self._log.has_debug:
            text = f"profile {profile!r}: credentials given to user {uid}, process {pid}"
            self._log.debug(text, profile=profile, access_key_id=credentials.access_key_id, uid=uid, pid=pid)

    def given_to_peer(
        self,
        profile: str,
        credentials: Credentials,
        uid: int | None,
        address: tuple[str, int],
        *,
        pod: Mapping[str, str] | None = None,
    ) -> None:
        """Write that the client of a connection is about to get credentials.

        The kernel tells the user at the other end, and not the process. The user is None if it is not known. A Pod's
        namespace, service account, name and node are fields of the line. Raises as `given`.
        """
        host, port = address
        account = f"{pod['namespace']}/{pod['service_account']}" if pod else ""
        fields: dict[str, str | int] = {"address": host, "port": port, **(pod or {})}
        if self._audit:
            user = account or (host if uid is None else uid)
            name = f"{profile} {' '.join(pod.values())} {host}" if pod else ""
            self._audit.give(profile, credentials, user, {"uid": "" if uid is None else uid, **fields}, pod=name)
        if self._log.has_debug:
            text = f"{_shown(profile, account)}: credentials given to {host}, port {port}"
            self._log.debug(text, profile=profile, access_key_id=credentials.access_key_id, **fields)


def _shown(profile: str, account: str) -> str:
    return f"profile {profile!r}, account {account}" if account else f"profile {profile!r}"


def _count(metrics: Metrics, profile: str, outcome: Credentials | Failure, provider: Refresher) -> None:
    if provider.request_seconds is not None:
        metrics.took(provider.request_seconds)
    if isinstance(outcome, Failure):
        reason = outcome.error.reason if isinstance(outcome.error, ServiceError) else ""
        metrics.failed(profile, outcome.error.cause, reason)
    else:
        leaf = provider.leaf
        dates = (leaf.x509.not_valid_before_utc, leaf.x509.not_valid_after_utc) if leaf else None
        metrics.succeeded(profile, time.time(), dates)
