"""Turn a response without credentials into an error that names the usual cause."""

from __future__ import annotations

from datetime import datetime

from hwsigner.errors import ServiceError, printable
from hwsigner.http.transport import Response, parse_date

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
    ("set rolesessionname", "Set acceptRoleSessionName in the Roles Anywhere profile, or omit --role-session-name"),
)
_CAUSES_BY_TYPE = {
    "AccessDeniedException": "Check the role's trust policy, the profile's roles, and that the profile is enabled: "
    "an administrator can run hwsigner aws check",
    "ResourceNotFoundException": "Check the ARNs, the account and the region",
    "ValidationException": "Check the value that the message names",
    "ThrottlingException": "AWS allows an account ten CreateSession calls a second: call less often",
}


def service_error(response: Response, now: datetime) -> ServiceError:
    """Return the error for a response that is not a success.

    Args:
        response: the response.
        now: this machine's time when it came, with a time zone.
    """
    body = response.json_object()
    kind = _type(response, body)
    error = _explained(response, body, kind, now)
    error.retryable = response.status in _RETRYABLE_STATUSES or kind in _RETRYABLE_TYPES
    error.retry_after = response.retry_after(now)
    error.request_id = request_id_of(response)
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
    return ServiceError(
        f"the response ({response.status}) is not from the service: {what}", "Check --endpoint and look for a proxy"
    )


def _explained(response: Response, body: dict[str, object], kind: str, now: datetime) -> ServiceError:
    if 300 <= response.status < 400:
        location = response.headers.get("Location", "nowhere")[:_SHOWN_CHARACTERS]
        return ServiceError(
            f"the service redirects ({response.status}) to {location}, which hwsigner does not follow",
            "Set the right URL with --endpoint, or look for a proxy",
        )
    if not body and not kind:
        return unexpected_response(response)
    message = str(body.get("message") or body.get("Message") or "no message")[:_SHOWN_CHARACTERS]
    request_id = request_id_of(response)
    what = f"{kind} ({response.status})" if kind else f"status {response.status}"
    return ServiceError(
        f"the service refused: {what}: {message.rstrip('.')}" + (f" (request id {request_id})" if request_id else ""),
        _clock_hint(response, message, now) or _cause(response.status, kind, message),
    )


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
