"""Requests signed with an access key (AWS4-HMAC-SHA256): to STS, and to any other service."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from hwsigner.emulator.arns import REGION
from hwsigner.emulator.canonical import body_hash, canonical_request
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import Family, family_of, json_response, refusal
from hwsigner.emulator.signature import (
    Authorization,
    SignatureError,
    SignatureFlaw,
    check_signed_headers,
    check_time,
    claimed_service,
    is_presigned,
    read_authorization,
    string_to_sign,
)
from hwsigner.emulator.vault import CallerCredentials, CredentialVault
from hwsigner.emulator.wire import Request, Response

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_HASH = "x-amz-content-sha256"
_SHA256 = re.compile("[0-9a-f]{64}")
_SIGNED_IF_SENT = {"content-md5", "content-type"}


class Signed(NamedTuple):
    """A verified request: who signed it, and for which service and region."""

    caller: CallerCredentials
    authorization: Authorization
    payload: str


def describe(record: Record, signed: Signed) -> Response:
    """Describe the signature of a verified request, in JSON."""
    request, caller, authorization = record.request, signed.caller, signed.authorization
    document = {
        "arn": caller.arn,
        "account": caller.account,
        "accessKeyId": caller.access_key_id,
        "service": authorization.service,
        "region": authorization.region,
        "method": request.method,
        "path": request.path,
        "presigned": authorization.presigned,
        "payload": signed.payload,
        "bodySha256": body_hash(request),
    }
    return json_response(200, document)


class AccessKeyService:
    """Verifies requests with the secret keys in a vault, and names the caller."""

    def __init__(self, vault: CredentialVault, clock: Callable[[], datetime]) -> None:
        self._vault = vault
        self._clock = clock

    def authenticate_for_sts(self, record: Record) -> CallerCredentials:
        """Verify a request to STS, and return its caller."""
        try:
            authorization = read_authorization(record.request)
            if authorization.service != "sts":
                raise SignatureError("Credential should be scoped to the service sts", SignatureFlaw.SCOPE)
            return self._verify(record, authorization)
        except SignatureError as error:
            raise refusal(error, Family.STS) from error

    def authenticate(self, record: Record) -> Signed:
        """Verify a request to any service."""
        request = record.request
        try:
            authorization = read_authorization(request)
            payload = _claimed_payload(request, authorization)
            caller = self._verify(record, authorization, payload)
            if payload not in (UNSIGNED_PAYLOAD, body_hash(request)):
                raise SignatureError(f"{_HASH} is not the SHA-256 of the body", SignatureFlaw.PAYLOAD)
        except SignatureError as error:
            raise refusal(error, family_of(claimed_service(request)), presigned=is_presigned(request)) from error
        return Signed(caller, authorization, payload)

    def _verify(self, record: Record, authorization: Authorization, payload: str | None = None) -> CallerCredentials:
        """Verify a request, and return the credentials that signed it. A payload of None is the SHA-256 of the body."""
        credentials = self._find(authorization)
        if authorization.algorithm != ALGORITHM:
            raise SignatureError(f"{authorization.algorithm} is not {ALGORITHM}", SignatureFlaw.ALGORITHM)
        if not REGION.fullmatch(authorization.region):
            raise SignatureError("Credential should be scoped to a valid region", SignatureFlaw.SCOPE)
        check_time(authorization, self._clock())
        _check_headers(record.request, authorization)
        canonical = canonical_request(
            record.request,
            authorization.signed_headers,
            payload=payload,
            s3=authorization.s3,
            presigned=authorization.presigned,
        )
        message = string_to_sign(canonical, authorization)
        record.canonical_request, record.string_to_sign = canonical.decode("latin-1"), message.decode("latin-1")
        if not hmac.compare_digest(_signature(credentials, authorization, message), authorization.signature):
            reason = "the signature is not the HMAC of the string to sign under the secret of the access key"
            raise SignatureError(reason, SignatureFlaw.SIGNATURE)
        return credentials

    def _find(self, authorization: Authorization) -> CallerCredentials:
        found = self._vault.find(authorization.key_name)
        if found is None:
            raise SignatureError("the access key ID is unknown", SignatureFlaw.KEY_ID)
        if found.session_token and not authorization.session_token:
            raise SignatureError("the session token is missing, or given twice", SignatureFlaw.NO_TOKEN)
        if not hmac.compare_digest(found.session_token.encode(), authorization.session_token.encode()):
            raise SignatureError("the session token does not belong to the access key ID", SignatureFlaw.TOKEN)
        if found.expiration is not None and found.expiration <= self._clock():
            raise SignatureError(
                f"the credentials expired at {found.expiration:%Y%m%dT%H%M%SZ}", SignatureFlaw.EXPIRED_TOKEN
            )
        return found


def _claimed_payload(request: Request, authorization: Authorization) -> str:
    """Return the last line of the canonical request: what the client says about the body."""
    values = request.values(_HASH)
    if not authorization.s3:
        if values and values != [body_hash(request)]:
            raise SignatureError(f"{_HASH} is not the SHA-256 of the body, or is given twice", SignatureFlaw.PAYLOAD)
        return body_hash(request)
    if request.values("transfer-encoding"):
        reason = "A header you provided implies functionality that is not implemented: Transfer-Encoding; "
        raise SignatureError(f"{reason}S3 requires Content-Length", SignatureFlaw.NOT_IMPLEMENTED)
    if not values and authorization.presigned:
        return UNSIGNED_PAYLOAD
    if len(values) != 1:
        raise SignatureError(f"{_HASH} is missing, or given twice", SignatureFlaw.NO_PAYLOAD_HASH)
    if values[0].startswith("STREAMING-"):
        raise SignatureError(f"{values[0]} is not implemented here", SignatureFlaw.NOT_IMPLEMENTED)
    if values[0] != UNSIGNED_PAYLOAD and not _SHA256.fullmatch(values[0]):
        raise SignatureError(
            f"{_HASH} must be {UNSIGNED_PAYLOAD} or a SHA-256 in hexadecimal", SignatureFlaw.PAYLOAD_WORD
        )
    return values[0]


def _check_headers(request: Request, authorization: Authorization) -> None:
    if len(request.values("host")) != 1:
        raise SignatureError("Host is missing, or given twice", SignatureFlaw.HEADERS)
    required = {"host"}
    if not authorization.presigned:
        required |= _SIGNED_IF_SENT & {name.lower() for name, _ in request.headers}
    missing = check_signed_headers(request, authorization.signed_headers, required)
    if missing:
        raise SignatureError(f"SignedHeaders lacks {', '.join(missing)}", SignatureFlaw.HEADERS)


def _signature(credentials: CallerCredentials, authorization: Authorization, message: bytes) -> bytes:
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in (authorization.date, authorization.region, authorization.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return hmac.digest(key, message, hashlib.sha256)
