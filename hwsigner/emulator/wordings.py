"""How each kind of service words what is wrong with a signature: its codes, and its documents."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from hwsigner.emulator.answers import Answer, RefusalError, json_error, s3_error, sts_error
from hwsigner.emulator.canonical import S3_SERVICES
from hwsigner.emulator.signature import Flaw, SignatureError


class Family(Enum):
    """Services that word their errors alike: STS, S3, and those that speak JSON."""

    STS = auto()
    S3 = auto()
    JSON = auto()


class _Wording(NamedTuple):
    """An error's code and HTTP status, and its message; where that is empty, the client is told what was wrong."""

    code: str
    status: int
    message: str = ""


_NO_MATCH = (
    "The request signature we calculated does not match the signature you provided. "
    "Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
)
_BAD_TOKEN = "The security token included in the request is invalid."  # noqa: S105 - a message
_END_OF_TOKEN = "The security token included in the request is expired"  # noqa: S105 - a message
_MISMATCH = _Wording("SignatureDoesNotMatch", 403)
_INVALID = _Wording("InvalidSignatureException", 403)
_BAD_QUERY = _Wording("AuthorizationQueryParametersError", 400)

# A flaw that its family's table lacks is worded by _OTHERWISE.
_WORDINGS: dict[Family, dict[Flaw, _Wording]] = {
    Family.STS: {
        Flaw.UNSIGNED: _Wording("MissingAuthenticationToken", 403, "Request is missing Authentication Token"),
        Flaw.FORM: _Wording("IncompleteSignature", 400),
        Flaw.TWO_FORMS: _Wording("IncompleteSignature", 400),
        Flaw.DATE: _Wording("IncompleteSignature", 400),
        Flaw.KEY_ID: _Wording("InvalidClientTokenId", 403, _BAD_TOKEN),
        Flaw.NO_TOKEN: _Wording("InvalidClientTokenId", 403, _BAD_TOKEN),
        Flaw.TOKEN: _Wording("InvalidClientTokenId", 403, _BAD_TOKEN),
        Flaw.EXPIRED_TOKEN: _Wording("ExpiredToken", 403, _END_OF_TOKEN),
        Flaw.SIGNATURE: _MISMATCH._replace(message=_NO_MATCH),
    },
    Family.JSON: {
        Flaw.UNSIGNED: _Wording("MissingAuthenticationTokenException", 403, "Missing Authentication Token"),
        Flaw.FORM: _Wording("IncompleteSignatureException", 400),
        Flaw.TWO_FORMS: _Wording("IncompleteSignatureException", 400),
        Flaw.DATE: _Wording("IncompleteSignatureException", 400),
        Flaw.KEY_ID: _Wording("UnrecognizedClientException", 403, _BAD_TOKEN),
        Flaw.NO_TOKEN: _Wording("UnrecognizedClientException", 403, _BAD_TOKEN),
        Flaw.TOKEN: _Wording("UnrecognizedClientException", 403, _BAD_TOKEN),
        Flaw.EXPIRED_TOKEN: _Wording("ExpiredTokenException", 403, _END_OF_TOKEN),
        Flaw.SIGNATURE: _INVALID._replace(message=_NO_MATCH),
    },
    Family.S3: {
        Flaw.TWO_FORMS: _Wording("InvalidArgument", 400),
        Flaw.ALGORITHM: _Wording("InvalidRequest", 400, "Please use AWS4-HMAC-SHA256."),
        Flaw.KEY_ID: _Wording(
            "InvalidAccessKeyId", 403, "The AWS Access Key Id you provided does not exist in our records."
        ),
        Flaw.NO_TOKEN: _Wording(
            "InvalidAccessKeyId", 403, "The AWS Access Key Id you provided does not exist in our records."
        ),
        Flaw.TOKEN: _Wording("InvalidToken", 400, "The provided token is malformed or otherwise invalid."),
        Flaw.EXPIRED_TOKEN: _Wording("ExpiredToken", 400, "The provided token has expired."),
        Flaw.DATE: _Wording("AccessDenied", 403, "AWS authentication requires a valid Date or x-amz-date header"),
        Flaw.CLOCK: _Wording(
            "RequestTimeTooSkewed", 403, "The difference between the request time and the current time is too large."
        ),
        Flaw.URL_EXPIRED: _Wording("AccessDenied", 403, "Request has expired"),
        Flaw.URL_TOO_EARLY: _Wording("AccessDenied", 403, "Request is not yet valid"),
        Flaw.HEADERS: _Wording("AccessDenied", 403, "There were headers present in the request which were not signed"),
        Flaw.SIGNATURE: _MISMATCH._replace(message=_NO_MATCH),
        Flaw.NO_PAYLOAD_HASH: _Wording(
            "InvalidRequest", 400, "Missing required header for this request: x-amz-content-sha256"
        ),
        Flaw.PAYLOAD_WORD: _Wording("InvalidArgument", 400),
        Flaw.PAYLOAD: _Wording(
            "XAmzContentSHA256Mismatch",
            400,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ),
        Flaw.NOT_IMPLEMENTED: _Wording("NotImplemented", 501),
    },
}
_OTHERWISE = {
    Family.STS: _MISMATCH,
    Family.JSON: _INVALID,
    Family.S3: _Wording("AuthorizationHeaderMalformed", 400),
}


def family_of(service: str) -> Family:
    """Return how a service words its errors."""
    if service in S3_SERVICES:
        return Family.S3
    return Family.STS if service == "sts" else Family.JSON


def refusal(error: SignatureError, family: Family, *, presigned: bool = False) -> RefusalError:
    """Return the refusal of a request, as the services of a family word it."""
    wording = _WORDINGS[family].get(error.flaw, _OTHERWISE[family])
    if family is Family.S3 and presigned and (error.flaw is Flaw.DATE or wording is _OTHERWISE[family]):
        wording = _BAD_QUERY
    return RefusalError(wording.code, wording.status, wording.message or str(error), str(error))


def error_answer(error: RefusalError, family: Family, request_id: str) -> Answer:
    """Return the document that a refused client gets."""
    if family is Family.JSON:
        return json_error(error.error_type, error.status, error.message)
    return (sts_error if family is Family.STS else s3_error)(error, request_id)
