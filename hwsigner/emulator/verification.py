"""AWS4-HMAC-SHA256: whether a request is signed with the secret of credentials that the vault knows."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime

from hwsigner.emulator.arns import REGION
from hwsigner.emulator.canonical import canonical_request
from hwsigner.emulator.record import Record
from hwsigner.emulator.signature import (
    Authorization,
    Flaw,
    SignatureError,
    check_signed_headers,
    check_time,
    string_to_sign,
)
from hwsigner.emulator.vault import Credentials, Vault
from hwsigner.emulator.wire import Request

ALGORITHM = "AWS4-HMAC-SHA256"
_SIGNED_IF_SENT = {"content-md5", "content-type"}


class Verifier:
    """Verifies signatures with the secrets of a vault and with a clock."""

    def __init__(self, vault: Vault, clock: Callable[[], datetime]) -> None:
        self._vault = vault
        self._clock = clock

    def verify(self, record: Record, authorization: Authorization, payload: str | None = None) -> Credentials:
        """Verify a request, and return the credentials that it is signed with.

        Args:
            record: has the raw request, and gets the strings that the signature must cover.
            authorization: what the request says of its signature.
            payload: the canonical request's last line; the SHA-256 of the body by default.

        Raises:
            SignatureError: the request is not in order; its flaw says of which kind the fault is.
        """
        credentials = self._find(authorization)
        if authorization.algorithm != ALGORITHM:
            raise SignatureError(f"{authorization.algorithm} is not {ALGORITHM}", Flaw.ALGORITHM)
        if not REGION.fullmatch(authorization.region):
            raise SignatureError("Credential should be scoped to a valid region", Flaw.SCOPE)
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
            raise SignatureError(
                "the signature is not that of the string to sign, made with the secret of the access key id",
                Flaw.SIGNATURE,
            )
        return credentials

    def _find(self, authorization: Authorization) -> Credentials:
        found = self._vault.find(authorization.key_name)
        if found is None:
            raise SignatureError("the access key id is not known here", Flaw.KEY_ID)
        if found.session_token and not authorization.session_token:
            raise SignatureError("the session token is missing, or given twice", Flaw.NO_TOKEN)
        if not hmac.compare_digest(found.session_token.encode(), authorization.session_token.encode()):
            raise SignatureError("the session token is not that of the access key id", Flaw.TOKEN)
        if found.expiration is not None and found.expiration <= self._clock():
            raise SignatureError(f"the credentials held until {found.expiration:%Y%m%dT%H%M%SZ}", Flaw.EXPIRED_TOKEN)
        return found


def _check_headers(request: Request, authorization: Authorization) -> None:
    if len(request.values("host")) != 1:
        raise SignatureError("Host is missing, or given twice", Flaw.HEADERS)
    required = {"host"}
    if not authorization.presigned:
        sent = {name.lower() for name, _ in request.headers}
        required |= sent & _SIGNED_IF_SENT
    missing = check_signed_headers(request, authorization.signed_headers, required)
    if missing:
        raise SignatureError(f"SignedHeaders lacks {', '.join(missing)}", Flaw.HEADERS)


def _signature(credentials: Credentials, authorization: Authorization, message: bytes) -> bytes:
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in (authorization.date, authorization.region, authorization.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return hmac.digest(key, message, hashlib.sha256)
