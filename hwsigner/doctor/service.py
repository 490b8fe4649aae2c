"""What only shows when a session is asked for: the clock, the way to the service, and whether it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hwsigner._aws.create_session import USER_AGENT, clock_difference, create_session, shortened
from hwsigner._config import settings
from hwsigner._http.connection import Deadline
from hwsigner._http.transport import get, parse_date
from hwsigner._system import host
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
from hwsigner.findings import Finding, Mistake, account, local

if TYPE_CHECKING:
    from hwsigner.doctor.profile_checks import ProfileState

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


def check_online(state: ProfileState, *, clock_only: bool) -> Iterator[Finding]:
    """Compare the clock with the service's. Then open the key, with its PIN, and ask for a session; yield what fails.

    The credentials are not kept.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HwsignerWarning)  # Those that matter were found without a session.
        try:
            yield from _check_clock(state)
            if not clock_only:
                yield from _create_session(state)
        except HwsignerError as error:
            mistake = next((mistake for kind, mistake in _MISTAKES if isinstance(error, kind)), local.SESSION_REFUSED)
            yield mistake.found_by(error)


def _check_clock(state: ProfileState) -> Iterator[Finding]:
    """Compare the clock with the Date header of the service's answer to an unsigned request."""
    service = settings.service(state.settings, state.environ)
    headers = [("Host", service.endpoint.host_header), ("User-Agent", USER_AGENT)]
    answer = get(service.endpoint, "/", headers, options=service.transport, deadline=Deadline(service.timeout))
    theirs = parse_date(answer.headers.get("Date", ""))
    if theirs is None:
        return
    off = (datetime.now(UTC) - theirs).total_seconds()
    if abs(off) > _TOLERANCE:
        yield local.CLOCK_WRONG.found(f"the clock is {clock_difference(off)} the service's", host.clock_cure())


def _create_session(state: ProfileState) -> Iterator[Finding]:
    from hwsigner._identity import open_identity

    source = settings.identity_source(state.settings)
    with open_identity(source) as identity:
        service = settings.service(state.settings, state.environ)
        session = create_session(identity, settings.session_request(state.settings), service)
    asked = vars(state.settings).get("session_duration", 0)  # The default is not asked for.
    problem, _, _ = shortened(session, asked, datetime.now(UTC)).partition(". ")
    if problem:
        yield account.DURATION_SHORTENED.found(problem)
