"""The record of a request: the request, the response, and what the service noticed about the client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from hwsigner.emulator.wire import Request

_SECRET_HEADERS = frozenset({"x-amz-security-token"})
# A parameter in the query of a target or canonical request, and a header line of the latter. Names may be encoded.
_PARAMETER = re.compile(r"(?<![^&?\n])([^=&?\n]*)=[^&\n]*")
_SECRET_LINE = re.compile(r"^(x-amz-security-token:).*", re.MULTILINE)


@dataclass
class Record:
    """A request and its response. It never contains a secret key, but its headers may contain a session token.

    Attributes:
        time: when the request had arrived.
        request: the raw request.
        request_id: the value of x-amzn-RequestId.
        action: what the request asks for, such as "iam:GetRole"; empty if the emulator does not know the action.
        status: the status of the response, or None if a fault suppressed the response.
        answer_type: the type of the error, "Success", or an empty string for a response that a fault made up.
        message: the error message that the client got.
        reason: what exactly failed, or an empty string if nothing failed.
        accepted: whether the request passed every check, even if a fault then changed the response.
        findings: what the service reports: missingSignedHeaders (with the names), postEmptyBody, algorithmMismatch.
        fault: the name of the fault that was applied, or an empty string.
        string_to_sign: as recomputed from the request, or empty if an earlier check failed.
        canonical_request: likewise. It may contain a session token.
    """

    time: datetime
    request: Request
    request_id: str
    action: str = ""
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
        """Return the record for a JSON log, without session tokens and with only the length of the body."""
        entry: dict[str, Any] = {
            "time": f"{self.time:%Y-%m-%dT%H:%M:%SZ}",
            "requestId": self.request_id,
            "method": self.method,
            "target": _without_token(self.target),
            "headers": [(name, "***" if name.lower() in _SECRET_HEADERS else value) for name, value in self.headers],
            "bodyLength": len(self.body),
            "action": self.action,
            "status": self.status,
            "type": self.answer_type,
            "message": self.message,
            "reason": self.reason,
            "accepted": self.accepted,
            "findings": self.findings,
            "fault": self.fault,
        }
        if not self.accepted and self.string_to_sign:
            entry["stringToSign"] = self.string_to_sign
            entry["canonicalRequest"] = _without_token(self.canonical_request)
        return entry


def _without_token(text: str) -> str:
    return _SECRET_LINE.sub(r"\1***", _PARAMETER.sub(_without_value, text))


def _without_value(parameter: re.Match[str]) -> str:
    name = unquote(parameter[1], "latin-1")
    return f"{parameter[1]}=***" if name.lower() in _SECRET_HEADERS else parameter[0]
