"""What only shows when a session is asked for: the clock, the way to the service, and whether it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hwsigner.aws.create_session import USER_AGENT, Service, clock_difference, create_session
from hwsigner.cli import options
from hwsigner.config import settings
from hwsigner.errors import (
    CertificateError,
    HwsignerError,
    HwsignerWarning,
    KeyMismatchError,
    PinLockedError,
    ServiceError,
    ServiceUnreachableError,
    SigningKeyError,
    UsageError,
)
from hwsigner.findings import Finding, Mistake, local
from hwsigner.http.connection import Deadline
from hwsigner.http.transport import get, parse_date

if TYPE_CHECKING:
    from hwsigner.cli.doctor.subject import Subject

_TOLERANCE = 60  # Seconds. The service takes five minutes; a clock that is off by one will be off by five.
# In this order: the first class that fits names the mistake.
_MISTAKES: tuple[tuple[type[HwsignerError], Mistake], ...] = (
    (ServiceUnreachableError, local.SERVICE_UNREACHABLE),
    (ServiceError, local.SESSION_REFUSED),
    (KeyMismatchError, local.KEY_MISMATCH),
    (PinLockedError, local.PIN_LOCKED),
    (SigningKeyError, local.KEY_UNUSABLE),
    (CertificateError, local.CERTIFICATE_UNREADABLE),
    (UsageError, local.PROFILE_INVALID),
)


def check(subject: Subject, *, clock_only: bool) -> list[Finding]:
    """Compare the clock with the service's. Then open the key, with its PIN, and ask for a session; return what fails.

    The credentials are not kept.
    """
    findings: list[Finding] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HwsignerWarning)  # Those that matter were found without a session.
        try:
            service = settings.service(subject.settings, subject.environ)
            findings += _check_clock(service)
            if not clock_only:
                _ask(subject, service)
        except HwsignerError as error:
            mistake = next((mistake for kind, mistake in _MISTAKES if isinstance(error, kind)), local.SESSION_REFUSED)
            findings.append(mistake.found_by(error))
    return findings


def _check_clock(service: Service) -> Iterator[Finding]:
    """Compare the clock with the Date header of the service's answer to an unsigned request."""
    headers = [("Host", service.endpoint.host_header), ("User-Agent", USER_AGENT)]
    answer = get(service.endpoint, "/", headers, options=service.transport, deadline=Deadline(service.timeout))
    theirs = parse_date(answer.headers.get("Date", ""))
    if theirs is None:
        return
    off = (datetime.now(UTC) - theirs).total_seconds()
    if abs(off) > _TOLERANCE:
        yield local.CLOCK_WRONG.found(f"the clock is {clock_difference(off)} the service's")


def _ask(subject: Subject, service: Service) -> None:
    from hwsigner.identity import open_identity

    source = options.identity_source(subject.settings)
    with open_identity(source) as identity:
        create_session(identity, settings.session_request(subject.settings), service)
