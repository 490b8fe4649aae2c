"""What the service says when it gives no credentials, turned into an error that names the usual cause."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from hwsigner.errors import ServiceError, printable
from hwsigner.transport import Answer

_PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
_PASSING_TYPES = frozenset({"ThrottlingException", "TooManyRequestsException", "ServiceUnavailableException"})
_CLOCK_TOLERANCE_SECONDS = 60
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
    """Tell whether an answer is a page for people, whatever its status says."""
    return answer.body.lstrip().startswith(b"<")


def retry_after(answer: Answer) -> float:
    """Return the seconds that the service asks to wait (RFC 9110, 10.2.3), 0 when it does not ask."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0


def refusal(answer: Answer, now: datetime) -> ServiceError:
    """Return the error for an answer that is not a success.

    Args:
        answer: the answer.
        now: this machine's time when it came, with its zone.
    """
    if 300 <= answer.status < 400:
        location = answer.headers.get("Location", "nowhere")[:_SHOWN_CHARACTERS]
        return ServiceError(
            f"the service redirects ({answer.status}) to {location}, which is not followed",
            "Give the right URL with --endpoint, or look for a proxy in the way",
        )
    body = _json(answer)
    kind = _type(answer, body)
    if not body and not kind:
        return _foreign(answer)
    message = str(body.get("message") or body.get("Message") or "no message")[:_SHOWN_CHARACTERS]
    request_id = answer.headers.get("x-amzn-RequestId", "none")[:_SHOWN_CHARACTERS]
    return ServiceError(
        f"the service refused: {kind or 'error'} ({answer.status}): {message.rstrip('.')} (request id {request_id})",
        _clock(answer, now) or _cause(kind, message),
    )


def _json(answer: Answer) -> dict[str, object]:
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _type(answer: Answer, body: dict[str, object]) -> str:
    text = str(answer.headers.get("x-amzn-ErrorType") or body.get("__type") or body.get("code") or "")
    return text.partition(":")[0].rpartition("#")[2][:_SHOWN_CHARACTERS]


def _foreign(answer: Answer) -> ServiceError:
    words = printable(" ".join(answer.body[:1000].decode("utf-8", "replace").split()))[:_SHOWN_FOREIGN]
    return ServiceError(
        f"the answer ({answer.status}) is not the service's: {words or 'an empty body'}",
        "Look for a proxy in the way, and at --endpoint",
    )


def _cause(kind: str, message: str) -> str:
    lowered = message.lower()
    return next((cause for part, cause in _CAUSES if part in lowered), _CAUSES_BY_TYPE.get(kind, ""))


def _clock(answer: Answer, now: datetime) -> str:
    """Return what to say of this machine's clock, or nothing when it agrees with the service's."""
    if answer.status != 403:
        return ""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("Date", "")).replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return ""
    off = (now - theirs).total_seconds()
    if abs(off) < _CLOCK_TOLERANCE_SECONDS:
        return ""
    size = f"{abs(off) / 60:.0f} minutes" if abs(off) >= 120 else f"{abs(off):.0f} seconds"
    return f"This machine's clock is {size} {'ahead of' if off > 0 else 'behind'} the service's: set it right"
