"""The way to the service: endpoint, proxy and CAs. With --online, also the clock, and whether it refuses a session."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hwsigner.aws.config_file import read_config
from hwsigner.aws.create_session import USER_AGENT, clock_difference, create_session, find_service
from hwsigner.aws.region import region_of, sessions_endpoint
from hwsigner.config import settings
from hwsigner.errors import (
    CertificateError,
    ConfigError,
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
from hwsigner.http.address import is_loopback
from hwsigner.http.connection import Deadline, find_proxy
from hwsigner.http.transport import get, parse_date
from hwsigner.system.files import check_no_pipe

if TYPE_CHECKING:
    from hwsigner.doctor.profile_checks import ProfileState
    from hwsigner.pins import AskPin

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


def check_connection(state: ProfileState) -> Iterator[Finding]:
    """Yield what keeps CreateSession's server from being found. Nothing is sent."""
    parts = str(state.settings.trust_anchor_arn or "").split(":")
    if len(parts) == 6:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HwsignerWarning)  # That a flag is unsafe, the commands say.
            yield from _check_region(state, parts[3])


def _check_region(state: ProfileState, region: str) -> Iterator[Finding]:
    environ, given, verify = state.environ, state.settings.endpoint, not state.settings.no_verify_ssl
    try:
        config = read_config(environ)
        endpoint = sessions_endpoint(region, environ=environ, endpoint=given, verify=verify, config=config)
    except UsageError as error:
        yield local.ENDPOINT_INVALID.found_by(error)
        return
    signed = state.settings.region or region
    if region_of(endpoint.host) not in ("", signed):
        found = f"the endpoint {endpoint.host} is in {region_of(endpoint.host)}, and requests are signed for {signed}"
        yield local.ENDPOINT_REGION.found(found, "Run hwsigner profile edit NAME --unset endpoint" if given else "")
    if not verify and not is_loopback(endpoint.host):
        fix = "Run hwsigner profile edit NAME --unset no-verify-ssl, and name the server's CA with AWS_CA_BUNDLE"
        yield local.SETTING_UNSAFE.found("no-verify-ssl accepts any server's certificate", fix)
    try:
        find_proxy(endpoint, environ)
    except UsageError as error:
        yield local.PROXY_INVALID.found_by(error)
        return
    try:
        transport = find_service(region, endpoint=given, verify=verify, environ=environ).transport
        if transport.cas and transport.cas.file:
            check_no_pipe(transport.cas.file, ConfigError)
        transport.read_cas()
    except ConfigError as error:
        yield local.CA_UNREADABLE.found_by(error)
    except UsageError as error:
        yield local.CONNECTION_SETTING.found_by(error)


def check_online(state: ProfileState, prompts: Sequence[AskPin], *, clock_only: bool) -> Iterator[Finding]:
    """Compare the clock with the service's. Then open the key, with its PIN, and ask for a session; yield what fails.

    The credentials are not kept.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HwsignerWarning)  # Those that matter were found without a session.
        try:
            yield from _check_clock(state)
            if not clock_only:
                _create_session(state, prompts)
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
        yield local.CLOCK_WRONG.found(f"the clock is {clock_difference(off)} the service's")


def _create_session(state: ProfileState, prompts: Sequence[AskPin]) -> None:
    from hwsigner.identity import open_identity

    source = settings.identity_source(state.settings, prompts=prompts)
    with open_identity(source) as identity:
        service = settings.service(state.settings, state.environ)
        create_session(identity, settings.session_request(state.settings), service)
