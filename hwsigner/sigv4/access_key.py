"""SigV4 with a secret access key: Signature Version 4 (AWS4-HMAC-SHA256), in the Authorization header or in the URL.

Pure functions, one for each stage of the specification (AWS, "Create a signed AWS API request"); the time is a
parameter. The stages up to the string to sign are those of SigV4-X509 (`hwsigner.sigv4`); the key is another.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from hwsigner.errors import UsageError
from hwsigner.sigv4 import Request, SignedRequest, canonical, timestamp

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_PAYLOAD_HASH = canonical.payload_hash(b"").decode("ascii")
"""The hash of a body that is not there."""
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""What stands in the place of the payload's hash where the body is not signed."""
CONTENT_HASH = "X-Amz-Content-SHA256"
"""The header that says what a signature holds for the payload's hash."""
_HASH = CONTENT_HASH.lower()
LONGEST_EXPIRES = 604800
"""How many seconds a presigned URL may hold: seven days."""

_ALWAYS_SIGNED = frozenset({"host", "content-type", "content-md5"})
# Clients and proxies set or change these after signing.
_NEVER_SIGNED = frozenset(
    {
        *("authorization", "proxy-authorization", "proxy-connection", "connection", "keep-alive", "te", "trailer"),
        *("transfer-encoding", "upgrade", "expect", "accept-encoding", "user-agent", "x-amzn-trace-id"),
    }
)
# Names can be as many as requests, as X-Amz-Meta-… with an id in it.
_MOST_NAMES = 256
_WHITE_SPACE = " \t\v\f"
_S3 = frozenset({"s3", "s3-object-lambda", "s3-outposts", "s3express"})
SET_BY_SIGNING = frozenset({"authorization", "x-amz-date", "x-amz-security-token", "x-amz-x509", "x-amz-x509-chain"})
"""What a signature sets, by either kind of key; in lower case."""
_SET_BY_PRESIGNING = frozenset(
    f"x-amz-{name}"
    for name in ("algorithm", "credential", "date", "security-token", "expires", "signedheaders", "signature")
)


Signed = Iterable[tuple[str, str | bytes]]
"""Headers to sign, as on the wire."""


class AccessKey(Protocol):
    """What to sign with; `hwsigner.Credentials` is one."""

    @property
    def access_key_id(self) -> str:
        """The access key's id."""
        ...

    @property
    def secret_access_key(self) -> str:
        """The secret that signing keys are derived from."""
        ...

    @property
    def session_token(self) -> str:
        """The token that belongs to temporary credentials; empty for others."""
        ...


@dataclass(frozen=True, slots=True)
class SigningContext:
    """What signatures of one access key share within one second, for one region and service.

    Attributes:
        context: algorithm, timestamp and credential scope, the first three lines of the string to sign.
        credential: `ACCESS_KEY_ID/` and the credential scope.
        headers: X-Amz-Date and, for temporary credentials, X-Amz-Security-Token.
        signed: the same with their names in lower case.
        s3: the service has S3's rules; see `is_s3`.
        key: the signing key, 32 bytes; see `signing_key`.
    """

    context: tuple[str, str, str]
    credential: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    signed: tuple[tuple[str, str], ...] = field(repr=False)
    s3: bool
    key: bytes = field(repr=False)

    def signature(self, string_to_sign: bytes) -> str:
        """Return the signature of a string to sign: its HMAC-SHA256, 64 hex digits."""
        return hmac.digest(self.key, string_to_sign, "sha256").hex()

    def authorization(self, signed_headers: bytes, string_to_sign: bytes) -> str:
        """Return the Authorization header's value, from the signed headers, joined by `;`, and the string to sign."""
        return self._authorization(signed_headers, self.signature(string_to_sign).encode())

    def authorize(self, method: str, target: str, headers: Signed, payload: str) -> str:
        """Return the value of the Authorization header for a request: all stages in one call.

        Args:
            method: as on the wire.
            target: the path and query, as on the request line.
            headers: those to sign, as on the wire.
            payload: the body's SHA-256 in hex, or the word in its place.

        Raises:
            ValueError: a part of the request can't go on the wire.
        """
        signature, names = canonical.sign_hmac(method, target, headers, payload, self.context, self.s3, self.key)
        return self._authorization(names, signature)

    def _authorization(self, signed_headers: bytes, signature: bytes) -> str:
        credential = f"{ALGORITHM} Credential={self.credential}"
        return f"{credential}, SignedHeaders={signed_headers.decode()}, Signature={signature.decode()}"


def is_s3(service: str) -> bool:
    """Tell whether a service has S3's rules: a path encoded once, and X-Amz-Content-SHA256 in each request."""
    return service in _S3


class SignedNames(dict[str, bool]):
    """Which headers are signed, by their names in lower case; the first names that were asked for are known.

    Host, Content-Type, Content-MD5 and every X-Amz-… are signed, and others.

    Attributes:
        others: the names of the others; `*` among them stands for all but those that change on the way.
    """

    def __init__(self, also_sign: Iterable[str]) -> None:
        """Take the names of the others, in any case.

        Raises:
            UsageError: one of them changes on the way, as User-Agent does.
        """
        super().__init__()
        self.others = frozenset(name.lower() for name in ([also_sign] if isinstance(also_sign, str) else also_sign))
        if never := self.others & _NEVER_SIGNED:
            raise UsageError(f"the header {min(never)} is never signed", "Leave it out: it changes on the way")

    def __missing__(self, name: str) -> bool:
        everything = "*" in self.others and name not in _NEVER_SIGNED
        signed = everything or name in _ALWAYS_SIGNED | self.others or name.startswith("x-amz-")
        if len(self) < _MOST_NAMES:
            self[name] = signed
        return signed


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """Return the signing key, 32 bytes: four HMAC-SHA256 in a row, from `AWS4` and the secret over date to service.

    Args:
        secret: the secret access key.
        date: `YYYYMMDD`, the first part of the credential scope.
        region: its second part.
        service: its third part.

    Raises:
        ValueError: the secret has a character that can't be printed, as the line feed of the file that it was in.
    """
    if not secret.isprintable():  # Else encoding it could fail, with an error that holds it.
        raise ValueError("a secret access key with a line feed or another character that can't be printed")
    key = b"AWS4" + secret.encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signing_context(
    access_key: AccessKey, timestamp: str, *, region: str, service: str, known: SigningContext | None = None
) -> SigningContext:
    """Return what signing needs of an access key at a time.

    Args:
        access_key: what to sign with.
        timestamp: `YYYYMMDDTHHMMSSZ`, in UTC.
        region: the region of the service's endpoint.
        service: the service's name in credential scopes, as `s3` or `execute-api`.
        known: a context made with the same secret; its signing key is taken if all that it comes from is the same.

    Raises:
        ValueError: as `signing_key`; the access key's id is not of printable ASCII, or the session token not of ASCII.
    """
    key_id, token = access_key.access_key_id, access_key.session_token or ""
    if not (key_id.isascii() and key_id.isprintable() and token.isascii()):
        raise ValueError("an access key's id or a session token that no header can hold")
    date = timestamp[:8]
    scope = f"{date}/{region}/{service}/aws4_request"
    credential = f"{key_id}/{scope}"
    if known is None or known.credential != credential:
        key = signing_key(access_key.secret_access_key, date, region, service)
    else:
        key = known.key
    headers = (("X-Amz-Date", timestamp), *([("X-Amz-Security-Token", token)] if token else ()))
    return SigningContext(
        (ALGORITHM, timestamp, scope),
        credential,
        headers,
        tuple([(name.lower(), value) for name, value in headers]),
        is_s3(service),
        key,
    )


def sign_request(
    request: Request,
    access_key: AccessKey,
    *,
    region: str,
    service: str,
    now: datetime,
    also_sign: Iterable[str] = (),
) -> SignedRequest:
    """Return the request, dated and signed in its Authorization header. One that is signed already is signed anew.

    Host, Content-Type, Content-MD5 and every X-Amz-… header are signed. A request to S3 gets X-Amz-Content-SHA256.
    Where a request bears it, to whatever service, its value stands for the hash of the body.

    Args:
        request: what to send; it bears Host.
        access_key: what to sign with.
        region: the region of the service's endpoint.
        service: the service's name in credential scopes.
        now: the time, with its zone.
        also_sign: more headers to sign; see `SignedNames`.

    Raises:
        UsageError: as `SignedNames`.
        ValueError: as `signing_context`; `now` has no zone; Host is missing or repeated; a part can't go on the wire.
    """
    context = signing_context(access_key, timestamp(now), region=region, service=service)
    kept, payload = _kept(request.headers)
    headers = [*kept, *context.headers]
    if not payload:
        payload = canonical.payload_hash(request.body).decode("ascii")
        headers += [(CONTENT_HASH, payload)] if context.s3 else []
    signs = SignedNames(also_sign)
    signed = [(name, value) for name, value in headers if signs[name.lower()]]
    to_sign, signed_headers = _to_sign(request, signed, payload, context=context)
    headers.append(("Authorization", context.authorization(signed_headers, to_sign)))
    return SignedRequest(replace(request, headers=tuple(headers)), to_sign)


def presign_request(
    request: Request, access_key: AccessKey, *, region: str, service: str, now: datetime, expires: int
) -> SignedRequest:
    """Return the request, signed in its query; `target` of the returned one is the path and query of the URL.

    Every header is signed, so whoever sends the request sends them all. The body is not signed in a request to S3;
    elsewhere it is none. X-Amz-Content-SHA256 among the headers says otherwise.

    Args:
        request: what somebody will send; it bears Host. Its body is not looked at.
        access_key: what to sign with.
        region: the region of the service's endpoint.
        service: the service's name in credential scopes.
        now: the time, with its zone.
        expires: seconds from `now` to the end of the URL, from 1 to 604800.

    Raises:
        ValueError: `expires` is out of range or no `int`; or as `sign_request`.
    """
    if type(expires) is not int or not 1 <= expires <= LONGEST_EXPIRES:
        raise ValueError(f"a presigned URL holds from 1 to {LONGEST_EXPIRES} seconds, a whole number")
    context = signing_context(access_key, timestamp(now), region=region, service=service)
    headers, given = _kept(request.headers)
    query = (
        *((name, value) for name, value in request.query if name.lower() not in _SET_BY_PRESIGNING),
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", context.credential),
        *context.headers,
        ("X-Amz-Expires", str(expires)),
        ("X-Amz-SignedHeaders", canonical.canonical_headers(headers)[1].decode("ascii")),
    )
    payload = given or (UNSIGNED_PAYLOAD if context.s3 else EMPTY_PAYLOAD_HASH)
    request = replace(request, query=query, headers=tuple(headers))
    to_sign, _ = _to_sign(request, headers, payload, context=context)
    signed = replace(request, query=(*query, ("X-Amz-Signature", context.signature(to_sign))))
    return SignedRequest(signed, to_sign)


def _to_sign(
    request: Request, headers: Sequence[tuple[str, str]], payload: str, *, context: SigningContext
) -> tuple[bytes, bytes]:
    if sum(name.lower() == "host" for name, _ in headers) != 1:
        raise ValueError("a request to sign has one Host header")
    return canonical.request_to_sign(request.method, request.target, headers, payload, context.context, context.s3)


def _kept(headers: Iterable[tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    """Return the headers that signing does not set, and what stands for the hash of the body, if they say it."""
    kept = [(name, value) for name, value in headers if name.lower() not in SET_BY_SIGNING]
    given = next((value for name, value in kept if name.lower() == _HASH), "").strip(_WHITE_SPACE)
    return (kept if given else [(name, value) for name, value in kept if name.lower() != _HASH]), given
