"""CreateSession: build, sign, send, try again where that helps, and read the credentials."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from hwsigner import defaults
from hwsigner._version import __version__
from hwsigner.aws.credentials import Credentials, read_credentials
from hwsigner.aws.endpoint import sessions_url
from hwsigner.aws.service_errors import foreign, is_foreign, is_passing, refusal
from hwsigner.errors import HwsignerError, ServiceUnreachableError, UsageError
from hwsigner.http.address import Endpoint
from hwsigner.http.proxy import find_proxy
from hwsigner.http.tls import find_cas
from hwsigner.http.transport import Answer, Deadline, TransportOptions, post
from hwsigner.identity import Identity
from hwsigner.sigv4 import Request, canonical_request, sign_request
from hwsigner.system.clocks import utc_now

USER_AGENT = f"hwsigner/{__version__}"
_BACKOFF_BASE = 0.5
_BACKOFF_CAP = 8.0

Trace = Callable[[str], None]


@dataclass(frozen=True)
class SessionRequest:
    """What to ask for.

    Attributes:
        trust_anchor_arn: the trust anchor.
        profile_arn: the Roles Anywhere profile.
        role_arn: the role.
        duration: the session's life in seconds, 900 to 43200; the profile's own may shorten it.
        session_name: the session's name, where the profile accepts one; the leaf's serial number when None.
        instance_properties: recorded by the service with the session.
    """

    trust_anchor_arn: str
    profile_arn: str
    role_arn: str
    duration: int = defaults.SESSION_DURATION
    session_name: str | None = None
    instance_properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Service:
    """Whom to ask, and how patiently.

    Attributes:
        region: the region to sign for.
        endpoint: where the service is.
        transport: time limits of each try, TLS and proxy.
        timeout: seconds for all tries together.
        max_attempts: how many tries, at most.
        trace: called with each line of what `--debug` shows, or None.
    """

    region: str
    endpoint: Endpoint
    transport: TransportOptions
    timeout: float = defaults.TIMEOUT
    max_attempts: int = defaults.MAX_ATTEMPTS
    trace: Trace | None = None


def find_service(
    region: str, *, endpoint: str | None = None, verify: bool = True, environ: Mapping[str, str] = os.environ
) -> Service:
    """Return the service of a region, as the environment's variables for endpoints, proxies, CAs and tries have it.

    Args:
        region: as in `us-east-1`.
        endpoint: the URL, which wins over the environment.
        verify: False to trust any server, and to allow `http:`.
        environ: the environment.

    Raises:
        UsageError: the endpoint, or a variable, can't be meant.

    Warns:
        UnsafeConnectionWarning: whenever `verify` is False.
    """
    found = sessions_url(region, environ=environ, endpoint=endpoint, verify=verify)
    transport = TransportOptions(verify=verify, cas=find_cas(environ), proxy=find_proxy(found, environ))
    return Service(region, found, transport, max_attempts=_max_attempts(environ))


def create_session(
    identity: Identity,
    request: SessionRequest,
    service: Service,
    *,
    now: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> Credentials:
    """Get credentials for an identity. Each try is dated and signed anew.

    Args:
        identity: who asks.
        request: what for.
        service: whom.
        now: tells the time, with its zone.
        sleep: waits some seconds before the next try.

    Raises:
        SigningKeyError: the key can't sign, or does not belong to the certificate.
        ServiceError: the service refused, or answered what can't be used.
        ServiceUnreachableError: no whole answer came in time.
    """
    deadline = Deadline(service.timeout)
    if service.endpoint.scheme == "https":
        _ = service.transport.tls  # A CA file that can't be read is found before a key is used.
    attempt = 1
    while True:
        outcome = _try(identity, request, service, deadline, now)
        if isinstance(outcome, Credentials):
            return outcome
        jitter = random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (attempt - 1)))  # noqa: S311  no secret
        pause = max(jitter, outcome.wait)
        if attempt >= service.max_attempts or pause >= deadline.remaining():
            raise outcome.failure
        _note(service, f"try {attempt} failed: {outcome.failure.message}; next in {pause:.2f} s")
        sleep(pause)
        attempt += 1


def build_request(request: SessionRequest, endpoint: Endpoint) -> Request:
    """Return the HTTP request for a session, unsigned."""
    body: dict[str, object] = {"durationSeconds": request.duration}
    if request.session_name is not None:
        body["roleSessionName"] = request.session_name
    if request.instance_properties:
        body["instanceProperties"] = dict(request.instance_properties)
    return Request(
        method="POST",
        path=endpoint.path,
        query=(
            ("profileArn", request.profile_arn),
            ("roleArn", request.role_arn),
            ("trustAnchorArn", request.trust_anchor_arn),
        ),
        headers=(
            ("Host", endpoint.host_header),
            ("Content-Type", "application/json"),
            ("User-Agent", USER_AGENT),
        ),
        body=json.dumps(body, separators=(",", ":")).encode(),
    )


class _Passing(NamedTuple):
    """A failure after which another try may succeed, and the seconds that the service asks to wait before it."""

    failure: HwsignerError
    wait: float = 0.0


def _try(
    identity: Identity, request: SessionRequest, service: Service, deadline: Deadline, now: Callable[[], datetime]
) -> Credentials | _Passing:
    try:
        answer = _send(identity, request, service, deadline, now())
    except ServiceUnreachableError as error:
        if not error.retryable:
            raise
        return _Passing(error)
    if answer.status in (200, 201):
        if is_foreign(answer):
            raise foreign(answer)
        return read_credentials(answer.body, role_arn=request.role_arn, now=now())
    failure = refusal(answer, now())
    if not is_passing(answer):
        raise failure
    return _Passing(failure, failure.retry_after)


def _send(identity: Identity, request: SessionRequest, service: Service, deadline: Deadline, now: datetime) -> Answer:
    begin = time.monotonic()
    signed = sign_request(
        build_request(request, service.endpoint),
        identity.sign,
        certificate=identity.chain,
        region=service.region,
        now=now,
    )
    if service.trace:
        _note(service, f"canonical request:\n{canonical_request(signed.request).decode()}")
    _note(service, f"string to sign:\n{signed.string_to_sign.decode()}")
    _note(service, f"signed in {_milliseconds(begin)}; sending to {service.endpoint.url}")
    begin = time.monotonic()
    http = signed.request
    answer = post(service.endpoint, http.target, http.headers, http.body, options=service.transport, deadline=deadline)
    _note(service, f"answer {answer.status} in {_milliseconds(begin)}")
    return answer


def _max_attempts(environ: Mapping[str, str]) -> int:
    text = environ.get("AWS_MAX_ATTEMPTS", "").strip() or str(defaults.MAX_ATTEMPTS)
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text)):
        raise UsageError(f"AWS_MAX_ATTEMPTS is {text[:100]!r}", "It is a whole number of tries, 1 or more")
    return int(text)


def _note(service: Service, line: str) -> None:
    if service.trace:
        service.trace(line)


def _milliseconds(begin: float) -> str:
    return f"{(time.monotonic() - begin) * 1000:.1f} ms"
