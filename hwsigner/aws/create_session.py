"""CreateSession: build a request, sign it, send it, retry if that may help, and read the credentials."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from hwsigner._version import __version__
from hwsigner.aws.config_file import Setting, read_config
from hwsigner.aws.credentials import Credentials, read_credentials
from hwsigner.aws.endpoint import sessions_endpoint
from hwsigner.aws.service_errors import is_from_service, request_id_of, service_error, unexpected_response
from hwsigner.errors import ServiceError, ServiceUnreachableError, UsageError, check_text
from hwsigner.http import defaults
from hwsigner.http.address import Endpoint
from hwsigner.http.connection import Deadline
from hwsigner.http.proxy import find_proxy
from hwsigner.http.tls import TrustedCAs, find_cas
from hwsigner.http.transport import Response, TransportOptions, post
from hwsigner.identity import Identity
from hwsigner.sigv4 import Request, canonical_request, sign_request
from hwsigner.system.clocks import utc_now

USER_AGENT = f"hwsigner/{__version__}"
_BACKOFF_BASE = 0.5
_BACKOFF_CAP = 8.0


class SessionRequest(NamedTuple):
    """The session to ask for.

    Attributes:
        trust_anchor_arn: the trust anchor.
        profile_arn: the Roles Anywhere profile.
        role_arn: the role.
        duration: the session's lifetime in seconds, 900 to 43200. The profile may shorten it.
        session_name: the session's name, if the profile accepts one; None for the leaf's serial number.
        instance_properties: properties that the service records with the session.
    """

    trust_anchor_arn: str
    profile_arn: str
    role_arn: str
    duration: int = defaults.SESSION_DURATION
    session_name: str | None = None
    instance_properties: Mapping[str, str] = {}


class Service(NamedTuple):
    """The service to ask, and the limits for it.

    Attributes:
        region: the region to sign for.
        endpoint: the service's URL.
        transport: the time limits of each attempt, TLS and proxy.
        timeout: seconds for all attempts together.
        max_attempts: the largest number of attempts.
        trace: called with the text that `--debug` shows; None for no trace.
    """

    region: str
    endpoint: Endpoint
    transport: TransportOptions
    timeout: float = defaults.TIMEOUT
    max_attempts: int = defaults.MAX_ATTEMPTS
    trace: Callable[[str], None] | None = None


def find_service(
    region: str, *, endpoint: str | None = None, verify: bool = True, environ: Mapping[str, str] = os.environ
) -> Service:
    """Return the service of a region, with the endpoint, proxy, CAs and attempts that are set.

    Environment variables set them, or else the SDKs' config file.

    Args:
        region: the region, such as `us-east-1`.
        endpoint: the service's URL, which takes precedence over the environment.
        verify: False to accept any server certificate, and to allow `http:`.
        environ: the environment variables.

    Raises:
        UsageError: the region, the endpoint, a variable or a setting of the config file is invalid.

    Warns:
        UnsafeConnectionWarning: `verify` is False.
    """
    config = read_config(environ)
    found = sessions_endpoint(region, environ=environ, endpoint=endpoint, verify=verify, config=config)
    bundle = None if environ.get("AWS_CA_BUNDLE") else config.get("ca_bundle")
    cas = TrustedCAs(f"{bundle.source}: {bundle.value}", file=bundle.trusted()) if bundle else find_cas(environ)
    transport = TransportOptions(verify=verify, cas=cas, proxy=find_proxy(found, environ))
    return Service(region, found, transport, max_attempts=_max_attempts(environ, config))


def create_session(
    identity: Identity,
    request: SessionRequest,
    service: Service,
    *,
    now: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> Credentials:
    """Get credentials for an identity. Each attempt is dated and signed again.

    Args:
        identity: the key and certificates that sign.
        request: the session to ask for.
        service: the service to ask.
        now: returns the time, with a time zone.
        sleep: waits some seconds before a retry.

    Raises:
        SigningKeyError: the key can't sign, or does not belong to the certificate.
        ServiceError: the service refused, or its response is invalid.
        ServiceUnreachableError: no complete response came in time.
    """
    deadline = Deadline(service.timeout)
    if service.endpoint.scheme == "https":
        service.transport.read_cas()  # Report an unreadable CA file before the key is used.
    attempt = 1
    while True:
        try:
            return _attempt(identity, request, service, deadline, now)
        except (ServiceError, ServiceUnreachableError) as error:
            asked = error.retry_after if isinstance(error, ServiceError) else 0.0
            jitter = random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (attempt - 1)))  # noqa: S311  no secret
            pause = max(jitter, asked)
            if not error.retryable or attempt >= service.max_attempts or pause >= deadline.remaining():
                raise
            _note(service, f"attempt {attempt} failed: {error.message}; retrying in {pause:.2f} s")
        sleep(pause)
        attempt += 1


def build_request(request: SessionRequest, endpoint: Endpoint) -> Request:
    """Return the unsigned HTTP request for a session.

    Raises:
        UsageError: an ARN is not a str.
    """
    check_text(request.trust_anchor_arn, "the trust anchor's ARN")
    check_text(request.profile_arn, "the profile's ARN")
    check_text(request.role_arn, "the role's ARN")
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


def _attempt(
    identity: Identity, request: SessionRequest, service: Service, deadline: Deadline, now: Callable[[], datetime]
) -> Credentials:
    response = _send(identity, request, service, deadline, now())
    if response.status not in (200, 201):
        raise service_error(response, now())
    if not is_from_service(response):
        raise unexpected_response(response)
    number = request_id_of(response)
    return read_credentials(response.body, role_arn=request.role_arn, now=now(), request_id=number)


def _send(identity: Identity, request: SessionRequest, service: Service, deadline: Deadline, now: datetime) -> Response:
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
    found = post(service.endpoint, http.target, http.headers, http.body, options=service.transport, deadline=deadline)
    _note(service, f"response {found.status} after {_milliseconds(begin)}")
    return found


def _max_attempts(environ: Mapping[str, str], config: Mapping[str, Setting]) -> int:
    setting = config.get("max_attempts")
    text, source = environ.get("AWS_MAX_ATTEMPTS", "").strip(), "AWS_MAX_ATTEMPTS"
    if not text:
        text, source = (setting.value, setting.source) if setting else (str(defaults.MAX_ATTEMPTS), "")
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text)):
        raise UsageError(f"{source} is {text[:100]!r}, which is not a number of attempts", "Set it to 1 or more")
    return int(text)


def _note(service: Service, line: str) -> None:
    if service.trace:
        service.trace(line)


def _milliseconds(begin: float) -> str:
    return f"{(time.monotonic() - begin) * 1000:.1f} ms"
