"""Requests signed for any AWS service: verifies the signature and the payload's hash, and says what was found."""

from __future__ import annotations

import hmac
import re

from hwsigner.emulator.answers import Answer, json_answer
from hwsigner.emulator.canonical import body_hash
from hwsigner.emulator.record import Record
from hwsigner.emulator.signature import (
    Authorization,
    Flaw,
    SignatureError,
    claimed_service,
    is_presigned,
    read_authorization,
)
from hwsigner.emulator.verification import Verifier
from hwsigner.emulator.wire import Request
from hwsigner.emulator.wordings import family_of, refusal

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_HASH = "x-amz-content-sha256"
_SHA256 = re.compile("[0-9a-f]{64}")


def answer_signed(record: Record, verifier: Verifier) -> Answer:
    """Verify a request and answer, in JSON, who signed it, for which service and how.

    Raises:
        RefusalError: the request is not in order, with the code that its service has for that.
    """
    request = record.request
    try:
        authorization = read_authorization(request)
        payload = _claimed_payload(request, authorization)
        credentials = verifier.verify(record, authorization, payload)
        if payload not in (UNSIGNED_PAYLOAD, body_hash(request)):
            raise SignatureError(f"{_HASH} is not the SHA-256 of the body", Flaw.PAYLOAD)
    except SignatureError as error:
        raise refusal(error, family_of(claimed_service(request)), presigned=is_presigned(request)) from error
    document = {
        "arn": credentials.arn,
        "account": credentials.account,
        "accessKeyId": credentials.access_key_id,
        "service": authorization.service,
        "region": authorization.region,
        "method": request.method,
        "path": request.path,
        "presigned": authorization.presigned,
        "payload": payload,
        "bodySha256": body_hash(request),
    }
    return json_answer(200, document)


def _claimed_payload(request: Request, authorization: Authorization) -> str:
    """Return the last line of the canonical request: what the client says of the body."""
    if authorization.s3:
        return _s3_payload(request, authorization)
    if request.values(_HASH) and not hmac.compare_digest(request.value(_HASH) or "", body_hash(request)):
        raise SignatureError(f"{_HASH} is not the SHA-256 of the body, or is given twice", Flaw.PAYLOAD)
    return body_hash(request)


def _s3_payload(request: Request, authorization: Authorization) -> str:
    if request.values("transfer-encoding"):
        raise SignatureError(
            "A header you provided implies functionality that is not implemented: Transfer-Encoding; "
            "S3 wants Content-Length",
            Flaw.NOT_IMPLEMENTED,
        )
    values = request.values(_HASH)
    if not values and authorization.presigned:
        return UNSIGNED_PAYLOAD
    if len(values) != 1:
        raise SignatureError(f"{_HASH} is missing, or given twice", Flaw.NO_PAYLOAD_HASH)
    if values[0].startswith("STREAMING-"):
        raise SignatureError(f"{values[0]} is not implemented here", Flaw.NOT_IMPLEMENTED)
    if values[0] != UNSIGNED_PAYLOAD and not _SHA256.fullmatch(values[0]):
        raise SignatureError(f"{_HASH} must be {UNSIGNED_PAYLOAD} or a SHA-256 in hexadecimal", Flaw.PAYLOAD_WORD)
    return values[0]
