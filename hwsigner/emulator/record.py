"""The record of one request: what was asked, what was answered, and what the service noticed about the client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from hwsigner.emulator.wire import Request

_SECRET_HEADERS = frozenset({"x-amz-security-token"})
# In the query of a target or of a canonical request, and as a line of the latter. A name may be percent-encoded.
_PARAMETER = re.compile(r"(?<![^&?\n])([^=&?\n]*)=[^&\n]*")
_SECRET_LINE = re.compile(r"^(x-amz-security-token:).*", re.MULTILINE)


@dataclass
class Record:
    """One request and its answer. It never holds a secret key; a caller's session token is among the headers.

    Attributes:
        time: when the request had arrived.
        request: the raw request.
        request_id: the value of x-amzn-RequestId.
        status: the status answered, or None where a fault answered nothing.
        answer_type: the error's type, "Success", or an empty string where a fault answered nothing of ours.
        message: the error's message as the client got it.
        reason: what exactly failed; an empty string when the request was in order.
        accepted: whether the request itself passed every check, whatever a fault made of the answer.
        findings: what the service scores about the client: missingSignedHeaders (with the names),
            postEmptyBody, algorithmMismatch.
        fault: the name of the fault that was applied, or an empty string.
        string_to_sign: as recomputed from the request; empty where it did not come so far.
        canonical_request: likewise; a session token may be in it.
    """

    time: datetime
    request: Request
    request_id: str
    status: int | None = None
    answer_type: str = ""
    message: str = ""
    reason: str = ""
    accepted: bool = False
    findings: list[str] = field(default_factory=list)
    fault: str = ""
    string_to_sign: str = ""
    canonical_request: str = ""

    @property
    def method(self) -> str:
        """The method, as sent."""
        return self.request.method

    @property
    def target(self) -> str:
        """Path and query, as sent."""
        return self.request.target

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers, as sent."""
        return self.request.headers

    @property
    def body(self) -> bytes:
        """The body, as sent."""
        return self.request.body

    def log_entry(self) -> dict[str, Any]:
        """Return what a log may hold, for JSON: no session token, and of the body only its length."""
        headers = [(name, "***" if name.lower() in _SECRET_HEADERS else value) for name, value in self.headers]
        entry: dict[str, Any] = {
            "time": f"{self.time:%Y-%m-%dT%H:%M:%SZ}",
            "requestId": self.request_id,
            "method": self.method,
            "target": _without_token(self.target),
            "headers": headers,
            "bodyLength": len(self.body),
            "status": self.status,
            "type": self.answer_type,
            "message": self.message,
            "reason": self.reason,
            "accepted": self.accepted,
            "findings": self.findings,
            "fault": self.fault,
        }
        if not self.accepted and self.string_to_sign:
            entry |= {
                "stringToSign": self.string_to_sign,
                "canonicalRequest": _without_token(self.canonical_request),
            }
        return entry


def _without_token(text: str) -> str:
    return _SECRET_LINE.sub(r"\1***", _PARAMETER.sub(_without_value, text))


def _without_value(parameter: re.Match[str]) -> str:
    name = unquote(parameter[1], "latin-1")
    return f"{parameter[1]}=***" if name.lower() in _SECRET_HEADERS else parameter[0]
