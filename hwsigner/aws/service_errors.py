"""What the service says when it gives no credentials, turned into an error that names the usual cause."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from hwsigner.errors import ServiceError, printable
from hwsigner.http.transport import Answer

_PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
_PASSING_TYPES = frozenset({"ThrottlingException", "TooManyRequestsException", "ServiceUnavailableException"})
# Seconds. The service bears five minutes; a bad signature is worth a closer look.
_CLOCK_TOLERANCE = 300
_CLOCK_OF_A_SIGNATURE = 60
_SHOWN_CHARACTERS = 300
_SHOWN_FOREIGN = 80

# Messages seen in the field, in lower case, and their usual causes.
_CAUSES = (
    (
        "insufficient certificate",
        "The leaf lacks keyUsage digitalSignature, is a CA, is not X.509 v3, or is signed with SHA-1",
    ),
    (
        "untrusted signing certificate",
        "The chain does not reach the trust anchor: look for missing intermediates, another anchor, or a disabled one",
    ),
    ("invalid signature", "Look whether the clock is right, and whether a proxy changes headers"),
    ("set rolesessionname", "Set acceptRoleSessionName in the profile, or leave --role-session-name out"),
)
_CAUSES_BY_TYPE = {
    "AccessDeniedException": "Look at the role's trust policy, at the profile's roles, and whether both are enabled",
    "ResourceNotFoundException": "Look at the ARNs, the account and the region",
    "ValidationException": "Look at the value that the message names",
    "ThrottlingException": "The account has ten CreateSession calls a second: call less often",
}


def is_passing(answer: Answer) -> bool:
    """Tell whether the same request may succeed later."""
    return answer.status in _PASSING_STATUSES or _type(answer, _json(answer)) in _PASSING_TYPES


def is_foreign(answer: Answer) -> bool:
    """Tell whether an answer is none of the service's, whatever its status says: it does not begin as a JSON object."""
    return _start(answer) != b"{"


def retry_after(answer: Answer, now: datetime) -> float:
    """Return the seconds that the service asks to wait (RFC 9110, 10.2.3), 0 when it does not ask."""
    text = answer.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    until = _parsed_date(text)
    return max(0.0, (until - now).total_seconds()) if until else 0.0


def refusal(answer: Answer, now: datetime) -> ServiceError:
    """Return the error for an answer that is not a success.

    Args:
        answer: the answer.
        now: this machine's time when it came, with its zone.
    """
    error = _refusal(answer, now)
    error.retry_after = retry_after(answer, now)
    return error


def _refusal(answer: Answer, now: datetime) -> ServiceError:
    if 300 <= answer.status < 400:
        location = answer.headers.get("Location", "nowhere")[:_SHOWN_CHARACTERS]
        return ServiceError(
            f"the service redirects ({answer.status}) to {location}, which is not followed",
            "Give the right URL with --endpoint, or look for a proxy in the way",
        )
    body = _json(answer)
    kind = _type(answer, body)
    if not body and not kind:
        return foreign(answer)
    message = str(body.get("message") or body.get("Message") or "no message")[:_SHOWN_CHARACTERS]
    request_id = answer.headers.get("x-amzn-RequestId", "")[:_SHOWN_CHARACTERS]
    what = f"{kind} ({answer.status})" if kind else f"status {answer.status}"
    return ServiceError(
        f"the service refused: {what}: {message.rstrip('.')}" + (f" (request id {request_id})" if request_id else ""),
        _clock(answer, message, now) or _cause(kind, message) or _cause_by_status(answer.status),
    )


def foreign(answer: Answer) -> ServiceError:
    """Return the error for an answer that is not the service's, with its status and first words."""
    # JSON that is broken, cut off or wrapped may hold credentials.
    start = b"" if _start(answer) in (b"{", b"[") else answer.body[:1000].partition(b"{")[0]
    words = printable(" ".join(start.decode("utf-8", "replace").split()))[:_SHOWN_FOREIGN]
    what = words or ("no JSON that it sends" if answer.body.strip() else "an empty body")
    return ServiceError(
        f"the answer ({answer.status}) is not the service's: {what}",
        "Look for a proxy in the way, and at --endpoint",
    )


def _start(answer: Answer) -> bytes:
    return answer.body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]


def _json(answer: Answer) -> dict[str, object]:
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _type(answer: Answer, body: dict[str, object]) -> str:
    text = str(answer.headers.get("x-amzn-ErrorType") or body.get("__type") or body.get("code") or "")
    return text.partition(":")[0].rpartition("#")[2][:_SHOWN_CHARACTERS]


def _cause(kind: str, message: str) -> str:
    lowered = message.lower()
    return next((cause for part, cause in _CAUSES if part in lowered), _CAUSES_BY_TYPE.get(kind, ""))


def _cause_by_status(status: int) -> str:
    return "Try again later" if status >= 500 else "Look at the flags, and at --endpoint"


def _clock(answer: Answer, message: str, now: datetime) -> str:
    """Return what to say of this machine's clock, or nothing when it is near enough to the service's."""
    theirs = _parsed_date(answer.headers.get("Date", ""))
    is_of_signature = "signature" in message.lower()
    if theirs is None or not (answer.status == 403 or (answer.status == 400 and is_of_signature)):
        return ""
    off = (now - theirs).total_seconds()
    if abs(off) < (_CLOCK_OF_A_SIGNATURE if is_of_signature else _CLOCK_TOLERANCE):
        return ""
    size = f"{abs(off) / 60:.0f} minutes" if abs(off) >= 120 else f"{abs(off):.0f} seconds"
    return f"This machine's clock is {size} {'ahead of' if off > 0 else 'behind'} the service's: set it right"


def _parsed_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
