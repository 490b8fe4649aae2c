"""What the emulator answers: the parts of an HTTP answer, and the refusals that become one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any
from xml.sax.saxutils import escape

STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, before the headers that every answer gets.

    Attributes:
        status: the HTTP status.
        content_type: the value of Content-Type.
        body: the body's bytes.
        error_type: the error's type ("AccessDeniedException"), or an empty string.
        headers: more headers, in order.
    """

    status: int
    content_type: str
    body: bytes
    error_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def with_header(self, name: str, value: str) -> Answer:
        """Return the same answer with one more header."""
        return replace(self, headers=(*self.headers, (name, value)))


class RefusalError(Exception):
    """A request that the service does not grant.

    Attributes:
        error_type: the service's name of the error.
        status: the HTTP status.
        message: what the service says, worded as the real one where its words are known.
        reason: what exactly failed; it goes to the record of the request and never to the client, as with
            the real service.
    """

    def __init__(self, error_type: str, status: int, message: str, reason: str = "") -> None:
        self.error_type = error_type
        self.status = status
        # A request's own words may be in both, and those may hold what no XML and no terminal should get.
        self.message = _printable(message)
        self.reason = _printable(reason or message)
        super().__init__(self.message)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def invalid(message: str) -> RefusalError:
    """Return the refusal of a malformed request: ValidationException, 400."""
    return RefusalError("ValidationException", 400, message)


def denied(message: str, reason: str = "") -> RefusalError:
    """Return the refusal of an unauthorised request: AccessDeniedException, 403."""
    return RefusalError("AccessDeniedException", 403, message, reason)


def invalid_signature(reason: str) -> RefusalError:
    """Return the refusal that the service words "Invalid signature", whatever is wrong with it."""
    return denied("Invalid signature", reason)


def json_answer(status: int, document: dict[str, Any]) -> Answer:
    """Return an answer with a JSON document."""
    return Answer(status, "application/json", json.dumps(document).encode())


def json_error(error_type: str, status: int, message: str) -> Answer:
    """Return an error as Roles Anywhere words it: JSON, and the type in a header."""
    answer = replace(json_answer(status, {"message": message}), error_type=error_type)
    return answer.with_header("x-amzn-ErrorType", error_type)


def caller_identity(arn: str, user_id: str, account: str, request_id: str) -> Answer:
    """Return the answer of sts:GetCallerIdentity: an XML document."""
    fields = (("Arn", arn), ("UserId", user_id), ("Account", account))
    result = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields)
    body = (
        f'<GetCallerIdentityResponse xmlns="{STS_NAMESPACE}">'
        f"<GetCallerIdentityResult>{result}</GetCallerIdentityResult>"
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
    return Answer(200, "text/xml", body.encode())


def sts_error(refusal: RefusalError, request_id: str) -> Answer:
    """Return an error as STS words it: an XML document."""
    body = (
        f'<ErrorResponse xmlns="{STS_NAMESPACE}"><Error><Type>Sender</Type><Code>{refusal.error_type}</Code>'
        f"<Message>{escape(refusal.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    )
    return Answer(refusal.status, "text/xml", body.encode(), error_type=refusal.error_type)


def s3_error(refusal: RefusalError, request_id: str) -> Answer:
    """Return an error as S3 words it: an XML document without a namespace."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{refusal.error_type}</Code>'
        f"<Message>{escape(refusal.message)}</Message><RequestId>{request_id}</RequestId></Error>"
    )
    return Answer(refusal.status, "application/xml", body.encode(), error_type=refusal.error_type)
