"""SigV4-X509: Signature Version 4 with a certificate and its key in the place of a shared secret.

Pure functions, one for each stage of the specification. The time is a parameter and the key a callable, so that each
intermediate string can be asserted. What is sent equals what is signed: `Request.target` comes from the encoder that
makes the canonical query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from hwsigner.key import Algorithm
from hwsigner.sigv4 import canonical

SERVICE = "rolesanywhere"
_SET_BY_SIGNING = frozenset({"authorization", "x-amz-date", "x-amz-x509", "x-amz-x509-chain"})


@dataclass(frozen=True)
class Request:
    """An HTTP request.

    Attributes:
        method: in upper case, as on the wire.
        path: as on the wire: ASCII, percent-encoded once, beginning with `/`; empty means `/`.
        query: names and values, decoded.
        headers: names and ASCII values, as on the wire. Host is one of them.
        body: the bytes that are sent.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def target(self) -> str:
        """The path and query to put on the request line.

        The query is the canonical one, sorted: a verifier that does not sort sees the same string.

        Raises:
            ValueError: a path that is not ASCII, does not begin with `/`, or holds `?` or `#`.
        """
        query = canonical.canonical_query(_encoded_parameters(self)).decode("ascii")
        path = canonical.canonical_path_s3(self.path).decode("ascii")
        return f"{path}?{query}" if query else path


class SigningCertificate(Protocol):
    """What a signed request says of the leaf and its chain; `hwsigner.certificate.Chain` says it."""

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the leaf's key."""
        ...

    @property
    def serial(self) -> str:
        """The leaf's serial number, in decimal."""
        ...

    @property
    def x509_header(self) -> str:
        """The value of X-Amz-X509: the leaf's DER in base64."""
        ...

    @property
    def chain_header(self) -> str:
        """The value of X-Amz-X509-Chain: the intermediates' DER in base64, joined by `,`; empty when there are none."""
        ...


@dataclass(frozen=True)
class SignedRequest:
    """A request with its Authorization header, and what its signature is of: the string to sign. No secret is in it."""

    request: Request
    string_to_sign: bytes


def sign_request(
    request: Request,
    sign: Callable[[bytes], bytes],
    *,
    certificate: SigningCertificate,
    region: str,
    now: datetime,
) -> SignedRequest:
    """Return the request, dated and signed. One that is signed already is dated and signed anew.

    Args:
        request: what to send; it bears Host, and Content-Type where it has a body.
        sign: takes the string to sign and returns its signature as the service wants it; see `hwsigner.key.Key.sign`.
        certificate: what to say of the certificate whose key `sign` uses.
        region: the region of the service's endpoint.
        now: the time, with its zone.

    Raises:
        ValueError: `now` has no zone; Host is missing or repeated; a part of the request can't go on the wire.
    """
    request = add_x509_headers(request, certificate, now)
    scope = credential_scope(now, region)
    to_sign, names = canonical.request_to_sign(
        request.method,
        request.target,
        headers_to_sign(request.headers),
        request.body,
        (certificate.algorithm, timestamp(now), scope),
    )
    authorization = authorization_header(
        certificate, scope, signed_headers=names.decode("ascii"), signature=sign(to_sign)
    )
    headers = (*request.headers, ("Authorization", authorization))
    return SignedRequest(replace(request, headers=headers), to_sign)


def add_x509_headers(request: Request, certificate: SigningCertificate, now: datetime) -> Request:
    """Return the request with X-Amz-Date, X-Amz-X509 and, where there is a chain, X-Amz-X509-Chain.

    Those that it bears already are replaced, and an Authorization is taken off.

    Raises:
        ValueError: `now` has no zone, or the request does not bear Host once.
    """
    kept = tuple((name, value) for name, value in request.headers if name.lower() not in _SET_BY_SIGNING)
    if sum(name.lower() == "host" for name, _ in kept) != 1:
        raise ValueError("a request to sign has one Host header")
    added = [("X-Amz-Date", timestamp(now)), ("X-Amz-X509", certificate.x509_header)]
    if chain := certificate.chain_header:
        added.append(("X-Amz-X509-Chain", chain))
    return replace(request, headers=(*kept, *added))


def timestamp(now: datetime) -> str:
    """Return a time as X-Amz-Date has it: `YYYYMMDDTHHMMSSZ`, in UTC.

    Raises:
        ValueError: `now` has no zone.
    """
    if now.utcoffset() is None:
        raise ValueError("a time to sign with has a zone")
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def credential_scope(now: datetime, region: str, service: str = SERVICE) -> str:
    """Return the credential scope: `YYYYMMDD/region/service/aws4_request`, the day in UTC.

    Raises:
        ValueError: `now` has no zone.
    """
    return f"{timestamp(now)[:8]}/{region}/{service}/aws4_request"


def canonical_request(request: Request) -> bytes:
    """Return the canonical request; see `hwsigner.sigv4.reference.canonical_request` for its rules.

    Raises:
        ValueError: a part of the request can't go on the wire.
    """
    return canonical.canonical_request(
        request.method,
        request.path,
        parameters=_encoded_parameters(request),
        headers=headers_to_sign(request.headers),
        payload_hash=canonical.payload_hash(request.body),
    )


def signed_headers(request: Request) -> str:
    """Return the signed headers: Host, Content-Type and every X-Amz-… header, in lower case, joined by `;`.

    Raises:
        ValueError: one of them can't go on the wire.
    """
    return canonical.canonical_headers(headers_to_sign(request.headers))[1].decode("ascii")


def string_to_sign(algorithm: Algorithm, now: datetime, *, scope: str, canonical_request: bytes) -> bytes:
    """Return the string to sign, four lines that the key signs as they are.

    Raises:
        ValueError: `now` has no zone, or the scope holds a line break.
    """
    return canonical.string_to_sign(algorithm, timestamp(now), scope=scope, canonical_request=canonical_request)


def authorization_header(certificate: SigningCertificate, scope: str, *, signed_headers: str, signature: bytes) -> str:
    """Return the value of the Authorization header, the signature in lower-case hex."""
    return (
        f"{certificate.algorithm} Credential={certificate.serial}/{scope}, "
        f"SignedHeaders={signed_headers}, Signature={signature.hex()}"
    )


def headers_to_sign(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return those of the headers that are signed: Host, Content-Type and every X-Amz-… header."""
    return [(name, value) for name, value in headers if _is_signed(name.lower())]


def _is_signed(name: str) -> bool:
    return name.startswith("x-amz-") or name in ("host", "content-type")


def _encoded_parameters(request: Request) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in request.query]
