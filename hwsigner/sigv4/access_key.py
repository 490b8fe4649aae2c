"""Signature Version 4 with an access key (AWS4-HMAC-SHA256), in the Authorization header or in the URL.

Pure functions, one for each stage of the specification (AWS, "Create a signed AWS API request"). The time is a
parameter. The stages up to the string to sign are the same as for SigV4-X509 (`hwsigner.sigv4`).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from hwsigner.errors import UsageError
from hwsigner.sigv4 import Request, SignedRequest, canonical, reference, timestamp

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_PAYLOAD_HASH = reference.payload_hash(b"").decode("ascii")
"""The hash of an empty body."""
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""The keyword that replaces the payload hash if the body is not signed."""
CONTENT_HASH = "X-Amz-Content-SHA256"
"""The header with the payload hash, or the keyword that replaces it."""
_HASH = CONTENT_HASH.lower()
MAX_EXPIRES = 604800
"""The longest lifetime of a presigned URL in seconds: seven days."""

_ALWAYS_SIGNED = frozenset({"host", "content-type", "content-md5"})
# Clients and proxies set or change these after signing.
_NEVER_SIGNED = frozenset(
    {
        *("authorization", "proxy-authorization", "proxy-connection", "connection", "keep-alive", "te", "trailer"),
        *("transfer-encoding", "upgrade", "expect", "accept-encoding", "user-agent", "x-amzn-trace-id"),
    }
)
# Each request may have new names, such as X-Amz-Meta-… with an ID in it.
_MAX_CACHED_NAMES = 256
_WHITE_SPACE = " \t\v\f"
_S3 = frozenset({"s3", "s3-object-lambda", "s3-outposts", "s3express"})
SET_BY_SIGNING = frozenset({"authorization", "x-amz-date", "x-amz-security-token", "x-amz-x509", "x-amz-x509-chain"})
"""The headers that signing with either kind of key sets, in lower case."""
_SET_BY_PRESIGNING = frozenset(
    f"x-amz-{name}"
    for name in ("algorithm", "credential", "date", "security-token", "expires", "signedheaders", "signature")
)

Signed = Iterable[tuple[str, str | bytes]]
"""Headers to sign, as on the wire."""


class AccessKey(Protocol):
    """Credentials to sign with. `hwsigner.Credentials` is one."""

    @property
    def access_key_id(self) -> str:
        """The access key ID."""

    @property
    def secret_access_key(self) -> str:
        """The secret that signing keys are derived from."""

    @property
    def session_token(self) -> str:
        """The session token of temporary credentials. Empty for others."""


@dataclass(frozen=True, slots=True)
class SigningContext:
    """What the signatures of one access key share within one second, for one region and service.

    Attributes:
        context: algorithm, timestamp and credential scope: the first three lines of the string to sign.
        credential: `ACCESS_KEY_ID/` and the credential scope.
        headers: X-Amz-Date and, for temporary credentials, X-Amz-Security-Token.
        signed: the same headers with lower-case names.
        s3: whether the service has S3's rules; see `is_s3`.
        key: the signing key, 32 bytes; see `signing_key`.
    """

    context: tuple[str, str, str]
    credential: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    signed: tuple[tuple[str, str], ...] = field(repr=False)
    s3: bool
    key: bytes = field(repr=False)

    def signature(self, string_to_sign: bytes) -> str:
        """Return the signature of a string to sign: its HMAC-SHA256 in hex."""
        return hmac.digest(self.key, string_to_sign, "sha256").hex()

    def authorize(self, method: str, target: str, headers: Signed, payload: str) -> str:
        """Return the value of the Authorization header for a request: all stages in one call.

        Args:
            method: as on the wire.
            target: the path and query, as on the request line.
            headers: the headers to sign, as on the wire.
            payload: the SHA-256 of the body in hex, or the keyword that replaces it.

        Raises:
            ValueError: a part of the request can't go on the wire.
        """
        signature, names = canonical.sign_hmac(method, target, headers, payload, self.context, self.s3, self.key)
        return self.authorization(names.decode(), signature.decode())

    def authorization(self, signed_headers: str, signature: str) -> str:
        """Return the value of the Authorization header, from the signed headers joined by `;` and the signature."""
        return f"{ALGORITHM} Credential={self.credential}, SignedHeaders={signed_headers}, Signature={signature}"


def is_s3(service: str) -> bool:
    """Return whether a service has S3's rules: the path is encoded once, and requests have X-Amz-Content-SHA256."""
    return service in _S3


class SignedNames(dict[str, bool]):
    """Whether to sign a header, by its lower-case name: a cache of the answers.

    Host, Content-Type, Content-MD5 and every X-Amz-… header are always signed.

    Attributes:
        also_sign: the names of more headers to sign. `*` stands for all except those that change on the way.
    """

    def __init__(self, also_sign: Iterable[str]) -> None:
        """Take the names of more headers to sign, in any case.

        Raises:
            UsageError: one of them changes on the way, such as User-Agent.
        """
        super().__init__()
        self.also_sign = frozenset(name.lower() for name in ([also_sign] if isinstance(also_sign, str) else also_sign))
        if never := self.also_sign & _NEVER_SIGNED:
            raise UsageError(f"the header {min(never)} is never signed", "Leave it out: it changes on the way")

    def __missing__(self, name: str) -> bool:
        everything = "*" in self.also_sign and name not in _NEVER_SIGNED
        signed = everything or name in _ALWAYS_SIGNED | self.also_sign or name.startswith("x-amz-")
        if len(self) < _MAX_CACHED_NAMES:
            self[name] = signed
        return signed


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """Return the signing key, 32 bytes: a chain of HMAC-SHA256, from `AWS4` and the secret over date to service.

    Args:
        secret: the secret access key.
        date: `YYYYMMDD`, the first part of the credential scope.
        region: the second part.
        service: the third part.

    Raises:
        ValueError: the secret has an unprintable character, such as the line feed at the end of its file.
    """
    if not secret.isprintable():  # Encoding it could fail otherwise, with an error that contains it.
        raise ValueError("a secret access key with a line feed or another unprintable character")
    key = b"AWS4" + secret.encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signing_context(
    access_key: AccessKey, timestamp: str, *, region: str, service: str, known: SigningContext | None = None
) -> SigningContext:
    """Return what signing with an access key at a given time needs.

    Args:
        access_key: the credentials to sign with.
        timestamp: `YYYYMMDDTHHMMSSZ`, in UTC.
        region: the region of the service's endpoint.
        service: the service's name in credential scopes, such as `s3` or `execute-api`.
        known: a context with the same secret. Its signing key is reused if ID, date, region and service are the same.

    Raises:
        ValueError: as `signing_key`; the access key ID is not printable ASCII, or the session token is not ASCII.
    """
    key_id, token = access_key.access_key_id, access_key.session_token or ""
    if not (key_id.isascii() and key_id.isprintable() and token.isascii()):
        raise ValueError("an access key ID or a session token that can't be part of a header")
    date = timestamp[:8]
    scope = f"{date}/{region}/{service}/aws4_request"
    credential = f"{key_id}/{scope}"
    secret = access_key.secret_access_key
    key = known.key if known and known.credential == credential else signing_key(secret, date, region, service)
    headers = (("X-Amz-Date", timestamp), *([("X-Amz-Security-Token", token)] if token else ()))
    signed = tuple([(name.lower(), value) for name, value in headers])
    return SigningContext((ALGORITHM, timestamp, scope), credential, headers, signed, is_s3(service), key)


def sign_request(
    request: Request, access_key: AccessKey, *, region: str, service: str, now: datetime, also_sign: Iterable[str] = ()
) -> SignedRequest:
    """Return the request with a date and an Authorization header. They replace earlier ones.

    Host, Content-Type, Content-MD5 and every X-Amz-… header are signed. A request to S3 gets X-Amz-Content-SHA256.
    If a request to any service already has that header, its value is used as the hash of the body.

    Args:
        request: the request to send, with a Host header.
        access_key: the credentials to sign with.
        region: the region of the service's endpoint.
        service: the service's name in credential scopes.
        now: the time, aware.
        also_sign: more headers to sign; see `SignedNames`.

    Raises:
        UsageError: as `SignedNames`.
        ValueError: as `signing_context`; `now` is naive; Host is missing or repeated; a part can't go on the wire.
    """
    context = signing_context(access_key, timestamp(now), region=region, service=service)
    kept, payload = _kept(request.headers)
    headers = [*kept, *context.headers]
    if not payload:
        payload = reference.payload_hash(request.body).decode("ascii")
        headers += [(CONTENT_HASH, payload)] if context.s3 else []
    signs = SignedNames(also_sign)
    signed = [(name, value) for name, value in headers if signs[name.lower()]]
    target = request.target
    to_sign, signed_headers = _to_sign(request.method, target, headers=signed, payload=payload, context=context)
    authorization = context.authorization(signed_headers.decode(), context.signature(to_sign))
    headers.append(("Authorization", authorization))
    return SignedRequest(request._replace(headers=tuple(headers)), target, to_sign)


def presign_request(
    request: Request, access_key: AccessKey, *, region: str, service: str, now: datetime, expires: int
) -> SignedRequest:
    """Return the request with a signature in its query. Its `target` is the path and query of the presigned URL.

    Every header is signed, so the client must send them all. Without X-Amz-Content-SHA256 among them, the body of a
    request to S3 is not signed, and that of a request to another service must be empty.

    Args:
        request: the request that a client will send, with a Host header. Its body is ignored.
        access_key: the credentials to sign with.
        region: the region of the service's endpoint.
        service: the service's name in credential scopes.
        now: the time, aware.
        expires: the lifetime of the URL in seconds, from 1 to 604800.

    Raises:
        ValueError: `expires` is out of range or not an `int`; or as `sign_request`.
    """
    if type(expires) is not int or not 1 <= expires <= MAX_EXPIRES:
        raise ValueError(f"a presigned URL expires after 1 to {MAX_EXPIRES} seconds, a whole number")
    context = signing_context(access_key, timestamp(now), region=region, service=service)
    headers, given = _kept(request.headers)
    query = (
        *((name, value) for name, value in request.query if name.lower() not in _SET_BY_PRESIGNING),
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", context.credential),
        *context.headers,
        ("X-Amz-Expires", str(expires)),
        ("X-Amz-SignedHeaders", reference.canonical_headers(headers)[1].decode("ascii")),
    )
    payload = given or (UNSIGNED_PAYLOAD if context.s3 else EMPTY_PAYLOAD_HASH)
    request = request._replace(query=query, headers=tuple(headers))
    to_sign, _ = _to_sign(request.method, request.target, headers=headers, payload=payload, context=context)
    signed = request._replace(query=(*query, ("X-Amz-Signature", context.signature(to_sign))))
    return SignedRequest(signed, signed.target, to_sign)


def _to_sign(
    method: str, target: str, *, headers: Sequence[tuple[str, str]], payload: str, context: SigningContext
) -> tuple[bytes, bytes]:
    if sum(name.lower() == "host" for name, _ in headers) != 1:
        raise ValueError("a request to sign has one Host header")
    return canonical.request_to_sign(method, target, headers, payload, context.context, context.s3)


def _kept(headers: Iterable[tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    """Return the headers that signing does not set, and the value of X-Amz-Content-SHA256 if it is among them."""
    kept = [(name, value) for name, value in headers if name.lower() not in SET_BY_SIGNING]
    given = next((value for name, value in kept if name.lower() == _HASH), "").strip(_WHITE_SPACE)
    return (kept if given else [(name, value) for name, value in kept if name.lower() != _HASH]), given
