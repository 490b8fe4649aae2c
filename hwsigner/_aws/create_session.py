"""CreateSession: build a request, sign it, send it, retry if that may help, and read the credentials.

A response without credentials becomes an error that names the usual cause.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from hwsigner._aws.config_file import Setting, read_config
from hwsigner._aws.credentials import Credentials, read_credentials
from hwsigner._aws.region import EndpointFlags, sessions_endpoint
from hwsigner._http import defaults
from hwsigner._http.address import Endpoint
from hwsigner._http.connection import Deadline, find_proxy
from hwsigner._http.tls import TrustedCAs, find_cas
from hwsigner._http.transport import Response, TransportOptions, parse_date, post
from hwsigner._identity import Identity
from hwsigner._identity.certificate import Chain
from hwsigner._system.clocks import utc_now
from hwsigner._version import __version__
from hwsigner.errors import ServiceError, ServiceUnreachableError, UsageError, check_text, printable
from hwsigner.sigv4 import Request, canonical_request, sign_request

USER_AGENT = f"hwsigner/{__version__}"
_BACKOFF_BASE = 0.5
_BACKOFF_CAP = 8.0
_RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})
_RETRYABLE_TYPES = frozenset({"ThrottlingException", "TooManyRequestsException", "ServiceUnavailableException"})
# Seconds. The service accepts five minutes; if it rejects the signature, blame the clock sooner.
_CLOCK_TOLERANCE = 300
_CLOCK_TOLERANCE_OF_SIGNATURES = 60
_UNITS = (("days", 86_400), ("hours", 3600), ("minutes", 60), ("seconds", 1))
_SHOWN_CHARACTERS = 300
_SHOWN_UNEXPECTED = 80

# Parts of messages seen in practice, in lower case, and their usual causes.
_CAUSES = (
    (
        "insufficient certificate",
        "The leaf lacks keyUsage digitalSignature, is a CA, is not X.509 v3, or is signed with SHA-1",
    ),
    (
        "untrusted signing certificate",
        "The chain does not reach the trust anchor: check for missing intermediates, another anchor, or a disabled one",
    ),
    ("certificate revoked", "A CRL of the trust anchor revokes the certificate, or one of its chain: get a new one"),
    ("invalid signature", "Check the clock, and look for a proxy that changes headers"),
    (
        "failed to be mapped",
        "Use only letters, digits, spaces and _.:/=+-@ in subject, issuer and SANs, or delete these attributes from "
        "the Roles Anywhere profile's attribute mappings",
    ),
    ("trust anchor wasn't found", "Check the trust anchor's ARN, its account and region"),
    ("empty profile", "Check the ARN of the Roles Anywhere profile, its account and region"),
    ("isn't one of those listed", "Add the role to the Roles Anywhere profile, or use one of its roles"),
    (
        "exceeds the maxsessionduration",
        "Ask for less with --session-duration, or set the role's MaxSessionDuration higher",
    ),
    (
        "set rolesessionname",
        "Set acceptRoleSessionName in the Roles Anywhere profile (serve --pods needs it) with hwsigner aws setup "
        "--accept-role-session-name, or omit --role-session-name",
    ),
)
_CAUSES_BY_TYPE = {
    "AccessDeniedException": "Check the role's trust policy, the Roles Anywhere profile's roles, and that this profile "
    "is enabled: an administrator can run hwsigner aws check",
    "ResourceNotFoundException": "Check the ARNs, the account and the region",
    "ValidationException": "Check the value that the message names",
    "ThrottlingException": "AWS allows an account ten CreateSession calls a second: call less often",
}


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
    region: str,
    *,
    endpoint: str | None = None,
    fips: bool | None = None,
    dual_stack: bool | None = None,
    verify: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Service:
    """Return the service of a region, with the endpoint, proxy, CAs and attempts that are set.

    Environment variables set them, or else the SDKs' config file.

    Args:
        region: the region, such as `us-east-1`.
        endpoint: the service's URL, which takes precedence over the environment.
        fips: whether to use the region's FIPS endpoint; None for what the environment says.
        dual_stack: the same for its endpoint for IPv4 and IPv6.
        verify: False to accept any server certificate, and to allow `http:`.
        environ: the environment variables.

    Raises:
        UsageError: the region, the endpoint, a variable or a setting of the config file is invalid.

    Warns:
        UnsafeConnectionWarning: `verify` is False.
    """
    config = read_config(environ)
    flags = EndpointFlags(endpoint, fips, dual_stack)
    found, _ = sessions_endpoint(region, environ=environ, flags=flags, verify=verify, config=config)
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
            pause = max(_backoff(attempt), asked)
            if not error.retryable or attempt >= service.max_attempts or pause >= deadline.remaining():
                raise
            if service.trace:
                service.trace(f"attempt {attempt} failed: {error.message}; retrying in {pause:.2f} s")
        sleep(pause)
        attempt += 1


def shortened(credentials: Credentials, duration: float, now: datetime) -> str:
    """Return what to tell the user if a session is shorter than asked; an empty string if it is not.

    The service's clock may differ from this one by `_CLOCK_TOLERANCE`.
    """
    seconds = (credentials.expiration - now).total_seconds()
    if seconds >= duration - _CLOCK_TOLERANCE:
        return ""
    given, asked = (f"{each / 60:.0f} minutes" for each in (seconds, duration))
    problem = (
        f"the session of {credentials.role_arn} lasts {given}, not {asked}: its Roles Anywhere profile allows no more"
    )
    return f"{problem}. Raise the duration there, or set session-duration to what it allows"


def build_request(request: SessionRequest, endpoint: Endpoint) -> Request:
    """Return the unsigned HTTP request for a session."""
    check_text(request.trust_anchor_arn, "the trust anchor's ARN")
    check_text(request.profile_arn, "the Roles Anywhere profile's ARN")
    check_text(request.role_arn, "the role's ARN")
    body: dict[str, object] = {"durationSeconds": request.duration}
    if request.session_name is not None:
        body["roleSessionName"] = request.session_name
    if request.instance_properties:
        body["instanceProperties"] = dict(request.instance_properties)
    profile, role, anchor = request.profile_arn, request.role_arn, request.trust_anchor_arn
    return Request(
        method="POST",
        path=endpoint.path,
        query=(("profileArn", profile), ("roleArn", role), ("trustAnchorArn", anchor)),
        headers=(("Host", endpoint.host_header), ("Content-Type", "application/json"), ("User-Agent", USER_AGENT)),
        body=json.dumps(body, separators=(",", ":")).encode(),
    )


def _attempt(
    identity: Identity, request: SessionRequest, service: Service, deadline: Deadline, now: Callable[[], datetime]
) -> Credentials:
    response = _send(identity, request, service, deadline, now())
    if response.status not in (200, 201):
        raise service_error(response, now(), identity.chain)
    if not is_from_service(response):
        raise unexpected_response(response)
    number, serial = request_id_of(response), identity.chain.leaf.x509.serial_number
    return read_credentials(
        response.body, role_arn=request.role_arn, now=now(), request_id=number, certificate_serial=serial
    )


def _send(identity: Identity, request: SessionRequest, service: Service, deadline: Deadline, now: datetime) -> Response:
    begin = time.monotonic()
    unsigned = build_request(request, service.endpoint)
    signed = sign_request(unsigned, identity.sign, certificate=identity.chain, region=service.region, now=now)
    if service.trace:
        service.trace(f"canonical request:\n{canonical_request(signed.request).decode()}")
        service.trace(f"string to sign:\n{signed.string_to_sign.decode()}")
        service.trace(f"signed in {_milliseconds(begin)}; sending to {service.endpoint.url}")
    begin = time.monotonic()
    http = signed.request
    found = post(service.endpoint, signed.target, http.headers, http.body, options=service.transport, deadline=deadline)
    if service.trace:
        service.trace(f"response {found.status} after {_milliseconds(begin)}")
    return found


def _backoff(attempt: int) -> float:
    """Return the seconds before the next attempt, random so that clients that fail together do not retry together."""
    import random

    return random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (attempt - 1)))  # noqa: S311  no secret


def _max_attempts(environ: Mapping[str, str], config: Mapping[str, Setting]) -> int:
    setting = config.get("max_attempts")
    text, source = environ.get("AWS_MAX_ATTEMPTS", "").strip(), "AWS_MAX_ATTEMPTS"
    if not text:
        text, source = (setting.value, setting.source) if setting else (str(defaults.MAX_ATTEMPTS), "")
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text)):
        raise UsageError(f"{source} is {text[:100]!r}, which is not a number of attempts", "Set it to 1 or more")
    return int(text)


def _milliseconds(begin: float) -> str:
    return f"{(time.monotonic() - begin) * 1000:.1f} ms"


def service_error(response: Response, now: datetime, chain: Chain | None = None) -> ServiceError:
    """Return the error for a response that is not a success.

    `now` is when it came. What is wrong with the certificates that were sent comes before the usual cause.
    """
    body = response.json_object()
    kind = _type(response, body)
    error = _explained(response, body, kind, now, chain)
    error.retryable = response.status in _RETRYABLE_STATUSES or kind in _RETRYABLE_TYPES
    error.retry_after = response.retry_after(now)
    error.request_id = request_id_of(response)
    error.reason = kind[:_SHOWN_CHARACTERS] or str(response.status)
    return error


def is_from_service(response: Response) -> bool:
    """Return whether a response may come from the service: its body starts like a JSON object, with any status."""
    return _first_byte(response) == b"{"


def request_id_of(response: Response) -> str:
    """Return the service's number of the request, or an empty string."""
    return response.headers.get("x-amzn-RequestId", "")[:_SHOWN_CHARACTERS]


def unexpected_response(response: Response) -> ServiceError:
    """Return the error for a response that does not come from the service, with its status and first words."""
    # Broken, cut or wrapped JSON may contain credentials.
    start = b"" if _first_byte(response) in (b"{", b"[") else response.body[:1000].partition(b"{")[0]
    words = printable(" ".join(start.decode("utf-8", "replace").split()))[:_SHOWN_UNEXPECTED]
    what = words or ("unexpected JSON" if response.body.strip() else "an empty body")
    problem = f"the response ({response.status}) is not from the service: {what}"
    return ServiceError(problem, "Check --endpoint and look for a proxy")


def _explained(
    response: Response, body: dict[str, object], kind: str, now: datetime, chain: Chain | None
) -> ServiceError:
    if 300 <= response.status < 400:
        location = response.headers.get("Location", "nowhere")[:_SHOWN_CHARACTERS]
        problem = f"the service redirects ({response.status}) to {location}, which hwsigner does not follow"
        return ServiceError(problem, "Set the right URL with --endpoint, or look for a proxy")
    if not body and not kind:
        return unexpected_response(response)
    message = str(body.get("message") or body.get("Message") or "no message")[:_SHOWN_CHARACTERS]
    what = f"{kind} ({response.status})" if kind else f"status {response.status}"
    number = f" (request id {request_id_of(response)})" if request_id_of(response) else ""
    fault = _fault_of(chain, message, now) if chain else ""
    hint = _clock_hint(response, message, now) or fault or _cause(response.status, kind, message)
    return ServiceError(f"the service refused: {what}: {message.rstrip('.')}{number}", hint)


def _fault_of(chain: Chain, message: str, now: datetime) -> str:
    """Return a hint by what is wrong with the certificates that the service refused, or an empty string."""
    lowered = message.lower()
    if "failed to be mapped" in lowered:
        from hwsigner._identity.session_tags import untaggable

        problems = "; ".join(untaggable(chain.leaf))
        return f"{problems}: reissue the certificate, or change the attribute mappings" if problems else ""
    if "untrusted" not in lowered:
        return ""
    from hwsigner._identity.flaws import chain_flaws

    of_issuer, flaws = "signing certificate" in lowered, chain_flaws(chain, now)
    # The service's words say where it looked; what is certain comes before what AWS does not document.
    flaws.sort(key=lambda each: ((each.certificate is chain.leaf) is of_issuer, not each.is_documented))
    if not flaws:
        return ""
    if flaws[0].certificate is chain.leaf:
        return f"The certificate {flaws[0].problem}: reissue it"
    fix = "reissue the certificate" if flaws[0].rule == "names" else "get the CA's current one"
    return f"The intermediate {flaws[0].certificate.subject} {flaws[0].problem}: {fix}"


def _cause(status: int, kind: str, message: str) -> str:
    """Return a hint by the message, else by the type of error, else by the status."""
    lowered = message.lower()
    by_status = "Retry later" if status >= 500 else "Check the flags, --endpoint among them"
    return next((cause for part, cause in _CAUSES if part in lowered), _CAUSES_BY_TYPE.get(kind, by_status))


def _clock_hint(response: Response, message: str, now: datetime) -> str:
    """Return a hint to fix this machine's clock, or an empty string if it agrees with the service's."""
    theirs = parse_date(response.headers.get("Date", ""))
    is_of_signature = "signature" in message.lower()
    if theirs is None or not (response.status == 403 or (response.status == 400 and is_of_signature)):
        return ""
    off = (now - theirs).total_seconds()
    if abs(off) < (_CLOCK_TOLERANCE_OF_SIGNATURES if is_of_signature else _CLOCK_TOLERANCE):
        return ""
    return f"This machine's clock is {clock_difference(off)} the service's: fix the clock"


def clock_difference(seconds: float) -> str:
    """Return how far a clock that is off by at least two seconds is ahead or behind, such as `7 minutes ahead of`."""
    unit, length = next((unit, length) for unit, length in _UNITS if abs(seconds) >= 2 * length)
    return f"{abs(seconds) / length:.0f} {unit} {'ahead of' if seconds > 0 else 'behind'}"


def _first_byte(response: Response) -> bytes:
    return response.body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]


def _type(response: Response, body: dict[str, object]) -> str:
    text = str(response.headers.get("x-amzn-ErrorType") or body.get("__type") or body.get("code") or "")
    return text.partition(":")[0].rpartition("#")[2][:_SHOWN_CHARACTERS]
