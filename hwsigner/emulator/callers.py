"""sts:GetCallerIdentity: verifies the caller's SigV4 with the secret that was vended, and says who it is."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime

from hwsigner.emulator.answers import Answer, RefusalError, caller_identity
from hwsigner.emulator.arns import REGION
from hwsigner.emulator.signature import (
    Authorization,
    SignatureError,
    check_signed_headers,
    check_time,
    parse_authorization,
    query_pairs,
    string_to_sign,
)
from hwsigner.emulator.vault import Vault, Vended
from hwsigner.emulator.wire import Request

_SIGNED_HEADERS = {"host", "x-amz-date", "x-amz-security-token"}
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. "
    "Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
)


class CallerService:
    """Answers GetCallerIdentity for the credentials of a vault."""

    def __init__(self, vault: Vault, clock: Callable[[], datetime]) -> None:
        self._vault = vault
        self._clock = clock

    def get_caller_identity(self, request: Request, request_id: str) -> Answer:
        """Verify a request and name its caller.

        Raises:
            RefusalError: an STS error: InvalidAction, MissingAuthenticationToken, IncompleteSignature,
                InvalidClientTokenId, ExpiredToken or SignatureDoesNotMatch.
        """
        _check_action(request)
        if not request.values("authorization"):
            raise RefusalError("MissingAuthenticationToken", 403, "Request is missing Authentication Token")
        try:
            authorization = parse_authorization(request)
        except SignatureError as error:
            raise RefusalError("IncompleteSignature", 400, str(error)) from error
        vended = self._find(request, authorization)
        self._verify(request, authorization, vended)
        return caller_identity(vended.arn, vended.user_id, vended.account, request_id)

    def _find(self, request: Request, authorization: Authorization) -> Vended:
        vended = self._vault.find(authorization.key_name)
        token = (request.value("x-amz-security-token") or "").encode()
        if vended is None or not hmac.compare_digest(token, vended.session_token.encode()):
            reason = "no such access key was vended, or with another session token"
            message = "The security token included in the request is invalid."
            raise RefusalError("InvalidClientTokenId", 403, message, reason)
        if vended.expiration <= self._clock():
            raise RefusalError("ExpiredToken", 403, "The security token included in the request is expired")
        return vended

    def _verify(self, request: Request, authorization: Authorization, vended: Vended) -> None:
        if authorization.algorithm != "AWS4-HMAC-SHA256":
            raise _mismatch(f"{authorization.algorithm} is not AWS4-HMAC-SHA256")
        if authorization.service != "sts" or not REGION.fullmatch(authorization.region):
            raise _mismatch("Credential should be scoped to a valid region and to the service sts")
        try:
            missing = check_signed_headers(request, authorization.signed_headers, _SIGNED_HEADERS)
            check_time(request, authorization.date, self._clock())
        except SignatureError as error:
            raise _mismatch(str(error)) from error
        if missing:
            raise _mismatch(f"SignedHeaders lacks {', '.join(missing)}")
        wanted = _signature(vended.secret_access_key, authorization, string_to_sign(request, authorization))
        if not hmac.compare_digest(wanted, authorization.signature):
            raise RefusalError(
                "SignatureDoesNotMatch", 403, _MISMATCH, "the signature is not made with the vended secret"
            )


def _check_action(request: Request) -> None:
    content_type = (request.value("content-type") or "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        raise RefusalError("InvalidAction", 400, "The body is not application/x-www-form-urlencoded")
    form = dict(query_pairs(request.body.decode("latin-1")))
    action, version = (form.get(name, b"").decode("utf-8", "replace") for name in (b"Action", b"Version"))
    if (action, version) != ("GetCallerIdentity", "2011-06-15"):
        raise RefusalError("InvalidAction", 400, f"Could not find operation {action} for version {version}")


def _signature(secret: str, authorization: Authorization, message: bytes) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (authorization.date, authorization.region, authorization.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return hmac.digest(key, message, hashlib.sha256)


def _mismatch(message: str) -> RefusalError:
    return RefusalError("SignatureDoesNotMatch", 403, message)
