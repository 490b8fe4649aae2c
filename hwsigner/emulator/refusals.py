"""Refused requests, and the error documents of each family of services."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum, auto
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from hwsigner.emulator.canonical import S3_SERVICES
from hwsigner.emulator.signature import SignatureError, SignatureFlaw
from hwsigner.emulator.wire import Response

STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
IAM_NAMESPACE = "https://iam.amazonaws.com/doc/2010-05-08/"


class RefusalError(Exception):
    """A request that the service refuses. Whatever reads or checks a request may raise it.

    The message is what the client is told, in the real service's words where they are known. The reason is what exactly
    failed, for the request's record: as with the real service, clients never learn it.
    """

    def __init__(self, error_type: str, status: int, message: str, reason: str = "") -> None:
        self.error_type = error_type
        self.status = status
        # Both may quote the request, which may contain characters that are not allowed in XML or on a terminal.
        self.message = _printable(message)
        self.reason = _printable(reason or message)
        super().__init__(self.message)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def invalid(message: str, reason: str = "") -> RefusalError:
    """Return the refusal of a malformed request: ValidationException, 400."""
    return RefusalError("ValidationException", 400, message, reason)


def denied(message: str, reason: str = "") -> RefusalError:
    """Return the refusal of an unauthorised request: AccessDeniedException, 403."""
    return RefusalError("AccessDeniedException", 403, message, reason)


def invalid_signature(reason: str) -> RefusalError:
    """Return CreateSession's refusal of a signature: "Invalid signature", whatever the reason."""
    return denied("Invalid signature", reason)


def json_response(status: int, document: dict[str, Any]) -> Response:
    """Return a response with a JSON document."""
    return Response(status, "application/json", json.dumps(document).encode())


def json_error(error_type: str, status: int, message: str) -> Response:
    """Return an error as a JSON document, with its type in a header."""
    response = replace(json_response(status, {"message": message}), error_type=error_type)
    return response.with_header("x-amzn-ErrorType", error_type)


class Family(Enum):
    """The families of services with the same form of errors: STS, IAM, S3, and services that speak JSON."""

    STS = auto()
    IAM = auto()
    S3 = auto()
    JSON = auto()


class _Error(NamedTuple):
    """An error code, its HTTP status and its message. If the message is empty, the client is told the reason."""

    code: str
    status: int
    message: str = ""


_NO_MATCH = (
    "The request signature we calculated does not match the signature you provided. "
    "Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
)
_BAD_TOKEN = "The security token included in the request is invalid."  # noqa: S105 - a message
_EXPIRED_TOKEN = "The security token included in the request is expired"  # noqa: S105 - a message
_NO_KEY = "The AWS Access Key Id you provided does not exist in our records."
_INCOMPLETE = (SignatureFlaw.FORM, SignatureFlaw.TWO_FORMS, SignatureFlaw.DATE)
_UNKNOWN_KEY = (SignatureFlaw.KEY_ID, SignatureFlaw.NO_TOKEN, SignatureFlaw.TOKEN)
_MISMATCH = _Error("SignatureDoesNotMatch", 403)
_INVALID = _Error("InvalidSignatureException", 403)
_BAD_QUERY = _Error("AuthorizationQueryParametersError", 400)

# A flaw that is missing in a family's table gets the family's entry in _DEFAULTS.
_ERRORS: dict[Family, dict[SignatureFlaw, _Error]] = {
    Family.STS: {
        SignatureFlaw.UNSIGNED: _Error("MissingAuthenticationToken", 403, "Request is missing Authentication Token"),
        **dict.fromkeys(_INCOMPLETE, _Error("IncompleteSignature", 400)),
        **dict.fromkeys(_UNKNOWN_KEY, _Error("InvalidClientTokenId", 403, _BAD_TOKEN)),
        SignatureFlaw.EXPIRED_TOKEN: _Error("ExpiredToken", 403, _EXPIRED_TOKEN),
        SignatureFlaw.SIGNATURE: _MISMATCH._replace(message=_NO_MATCH),
    },
    Family.JSON: {
        SignatureFlaw.UNSIGNED: _Error("MissingAuthenticationTokenException", 403, "Missing Authentication Token"),
        **dict.fromkeys(_INCOMPLETE, _Error("IncompleteSignatureException", 400)),
        **dict.fromkeys(_UNKNOWN_KEY, _Error("UnrecognizedClientException", 403, _BAD_TOKEN)),
        SignatureFlaw.EXPIRED_TOKEN: _Error("ExpiredTokenException", 403, _EXPIRED_TOKEN),
        SignatureFlaw.SIGNATURE: _INVALID._replace(message=_NO_MATCH),
    },
    Family.S3: {
        SignatureFlaw.TWO_FORMS: _Error("InvalidArgument", 400),
        SignatureFlaw.ALGORITHM: _Error("InvalidRequest", 400, "Please use AWS4-HMAC-SHA256."),
        SignatureFlaw.KEY_ID: _Error("InvalidAccessKeyId", 403, _NO_KEY),
        SignatureFlaw.NO_TOKEN: _Error("InvalidAccessKeyId", 403, _NO_KEY),
        SignatureFlaw.TOKEN: _Error("InvalidToken", 400, "The provided token is malformed or otherwise invalid."),
        SignatureFlaw.EXPIRED_TOKEN: _Error("ExpiredToken", 400, "The provided token has expired."),
        SignatureFlaw.DATE: _Error(
            "AccessDenied", 403, "AWS authentication requires a valid Date or x-amz-date header"
        ),
        SignatureFlaw.CLOCK: _Error(
            "RequestTimeTooSkewed", 403, "The difference between the request time and the current time is too large."
        ),
        SignatureFlaw.URL_EXPIRED: _Error("AccessDenied", 403, "Request has expired"),
        SignatureFlaw.URL_TOO_EARLY: _Error("AccessDenied", 403, "Request is not yet valid"),
        SignatureFlaw.HEADERS: _Error(
            "AccessDenied", 403, "There were headers present in the request which were not signed"
        ),
        SignatureFlaw.SIGNATURE: _MISMATCH._replace(message=_NO_MATCH),
        SignatureFlaw.NO_PAYLOAD_HASH: _Error(
            "InvalidRequest", 400, "Missing required header for this request: x-amz-content-sha256"
        ),
        SignatureFlaw.PAYLOAD_WORD: _Error("InvalidArgument", 400),
        SignatureFlaw.PAYLOAD: _Error(
            "XAmzContentSHA256Mismatch",
            400,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ),
        SignatureFlaw.NOT_IMPLEMENTED: _Error("NotImplemented", 501),
    },
}
# IAM has STS's error codes.
_ERRORS[Family.IAM] = _ERRORS[Family.STS]
_DEFAULTS = {
    Family.STS: _MISMATCH,
    Family.IAM: _MISMATCH,
    Family.JSON: _INVALID,
    Family.S3: _Error("AuthorizationHeaderMalformed", 400),
}
_NAMESPACES = {Family.STS: STS_NAMESPACE, Family.IAM: IAM_NAMESPACE}


# The error codes of services with query protocols, if they differ from the JSON services' codes.
_QUERY_ERRORS = {
    "ThrottlingException": ("Throttling", 400),
    "ValidationException": ("ValidationError", 400),
    "AccessDeniedException": ("AccessDenied", 403),
    "InternalServerException": ("InternalFailure", 500),
    "ServiceUnavailableException": ("ServiceUnavailable", 503),
}


def family_of(service: str) -> Family:
    """Return the family of a service."""
    if service in S3_SERVICES:
        return Family.S3
    return {"sts": Family.STS, "iam": Family.IAM}.get(service, Family.JSON)


def refusal(error: SignatureError, family: Family, *, presigned: bool = False) -> RefusalError:
    """Return the refusal of a signature, with the family's error code."""
    default = _DEFAULTS[family]
    code, status, message = _ERRORS[family].get(error.flaw, default)
    if family is Family.S3 and presigned and (error.flaw is SignatureFlaw.DATE or code == default.code):
        code, status, message = _BAD_QUERY
    return RefusalError(code, status, message or str(error), str(error))


def error_response(error: RefusalError, family: Family, request_id: str) -> Response:
    """Return the response to a refused request: JSON or XML, as the family sends it."""
    if family is Family.JSON:
        return json_error(error.error_type, error.status, error.message)
    code, status = _QUERY_ERRORS.get(error.error_type, (error.error_type, error.status))
    details = f"<Code>{code}</Code><Message>{escape(error.message)}</Message>"
    request = f"<RequestId>{request_id}</RequestId>"
    if family in _NAMESPACES:
        error_element = f"<Error><Type>Sender</Type>{details}</Error>"
        content_type = "text/xml"
        body = f'<ErrorResponse xmlns="{_NAMESPACES[family]}">{error_element}{request}</ErrorResponse>'
    else:
        content_type = "application/xml"
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{details}{request}</Error>'
    return Response(status, content_type, body.encode(), error_type=code)
