"""SigV4-X509: Signature Version 4 with a certificate and its key instead of a shared secret.

Pure functions, one for each stage of the specification. The time is a parameter and the key is a callable, so tests can
assert each intermediate string. The request on the wire is the one that was signed: `Request.target` uses the encoder
of the canonical query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from hwsigner.sigv4 import canonical, reference

SERVICE = "rolesanywhere"
_SET_BY_SIGNING = frozenset({"authorization", "x-amz-date", "x-amz-x509", "x-amz-x509-chain"})


class Request(NamedTuple):
    """An HTTP request.

    Attributes:
        method: in upper case, as on the wire.
        path: as on the wire: ASCII, percent-encoded once, beginning with `/`. Empty means `/`.
        query: names and values, decoded.
        headers: names and ASCII values, as on the wire. Host is one of them.
        body: the bytes to send.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def target(self) -> str:
        """The path and query for the request line.

        The query is the canonical, sorted one, so that a verifier that does not sort sees the same string.

        Raises:
            ValueError: the path is not ASCII, does not begin with `/`, or contains `?` or `#`.
        """
        query = reference.canonical_query(_encoded_parameters(self)).decode("ascii")
        path = reference.canonical_path_s3(self.path).decode("ascii")
        return f"{path}?{query}" if query else path


class SigningCertificate(Protocol):
    """What a signed request says about the leaf and its chain. `hwsigner._identity.certificate.Chain` is one."""

    @property
    def algorithm(self) -> str:
        """The SigV4-X509 algorithm of the leaf's key."""

    @property
    def serial(self) -> str:
        """The leaf's serial number, in decimal."""

    @property
    def x509_header(self) -> str:
        """The value of X-Amz-X509: the leaf's DER in base64."""

    @property
    def chain_header(self) -> str:
        """The value of X-Amz-X509-Chain: the intermediates' DER in base64, joined by `,`. Empty if there are none."""


class SignedRequest(NamedTuple):
    """A request with its signature. It contains no secret key.

    Attributes:
        request: the request, with an Authorization header or a signature in its query.
        target: the request's target, which goes on the request line.
        string_to_sign: what was signed.
    """

    request: Request
    target: str
    string_to_sign: bytes


def sign_request(
    request: Request, sign: Callable[[bytes], bytes], *, certificate: SigningCertificate, region: str, now: datetime
) -> SignedRequest:
    """Return the request with a date and a signature. They replace earlier ones.

    Args:
        request: the request to send, with a Host header and, if it has a body, a Content-Type header.
        sign: returns the signature of the string to sign in the service's format; see `hwsigner.key.Key.sign`.
        certificate: the certificate whose key `sign` uses.
        region: the region of the service's endpoint.
        now: the time, aware.

    Raises:
        ValueError: `now` is naive; Host is missing or repeated; a part of the request can't go on the wire.
    """
    request = add_x509_headers(request, certificate, now)
    scope, target = credential_scope(now, region), request.target
    context, signed = (certificate.algorithm, timestamp(now), scope), headers_to_sign(request.headers)
    to_sign, names = canonical.request_to_sign(request.method, target, signed, request.body, context)
    signature = sign(to_sign)
    authorization = authorization_header(certificate, scope, signed_headers=names.decode(), signature=signature)
    headers = (*request.headers, ("Authorization", authorization))
    return SignedRequest(request._replace(headers=headers), target, to_sign)


def add_x509_headers(request: Request, certificate: SigningCertificate, now: datetime) -> Request:
    """Return the request with X-Amz-Date, X-Amz-X509 and, if there are intermediates, X-Amz-X509-Chain.

    They replace earlier ones. An Authorization header is removed.

    Raises:
        ValueError: `now` is naive, or the request does not have exactly one Host header.
    """
    kept = tuple((name, value) for name, value in request.headers if name.lower() not in _SET_BY_SIGNING)
    if sum(name.lower() == "host" for name, _ in kept) != 1:
        raise ValueError("a request to sign has one Host header")
    added = [("X-Amz-Date", timestamp(now)), ("X-Amz-X509", certificate.x509_header)]
    if chain := certificate.chain_header:
        added.append(("X-Amz-X509-Chain", chain))
    return request._replace(headers=(*kept, *added))


def timestamp(now: datetime) -> str:
    """Return a time in the format of X-Amz-Date: `YYYYMMDDTHHMMSSZ`, in UTC.

    Raises:
        ValueError: `now` is naive.
    """
    if now.utcoffset() is None:
        raise ValueError("the signing time has no time zone")
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def credential_scope(now: datetime, region: str, service: str = SERVICE) -> str:
    """Return the credential scope: `YYYYMMDD/region/service/aws4_request`, with the date in UTC.

    Raises:
        ValueError: `now` is naive.
    """
    return f"{timestamp(now)[:8]}/{region}/{service}/aws4_request"


def canonical_request(request: Request) -> bytes:
    """Return the canonical request; see `hwsigner.sigv4.reference.canonical_request` for the rules.

    Raises:
        ValueError: a part of the request can't go on the wire.
    """
    parameters, headers = _encoded_parameters(request), headers_to_sign(request.headers)
    hashed = reference.payload_hash(request.body)
    return reference.canonical_request(
        request.method, request.path, parameters=parameters, headers=headers, payload_hash=hashed
    )


def signed_headers(request: Request) -> str:
    """Return the signed headers: Host, Content-Type and every X-Amz-… header, in lower case, joined by `;`.

    Raises:
        ValueError: one of them can't go on the wire.
    """
    return reference.canonical_headers(headers_to_sign(request.headers))[1].decode("ascii")


def string_to_sign(algorithm: str, now: datetime, *, scope: str, canonical_request: bytes) -> bytes:
    """Return the string to sign: the four lines that the key signs.

    Raises:
        ValueError: `now` is naive, or the scope contains a line break.
    """
    return reference.string_to_sign(algorithm, timestamp(now), scope=scope, canonical_request=canonical_request)


def authorization_header(certificate: SigningCertificate, scope: str, *, signed_headers: str, signature: bytes) -> str:
    """Return the value of the Authorization header, with the signature in lower-case hex."""
    return (
        f"{certificate.algorithm} Credential={certificate.serial}/{scope}, "
        f"SignedHeaders={signed_headers}, Signature={signature.hex()}"
    )


def headers_to_sign(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers to sign: Host, Content-Type and every X-Amz-… header."""
    return [
        (name, value)
        for name, value in headers
        if name.lower() in ("host", "content-type") or name.lower().startswith("x-amz-")
    ]


def _encoded_parameters(request: Request) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in request.query]
