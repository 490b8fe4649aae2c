"""A client of the emulator that shares no code with hwsigner: botocore makes the canonical request, cryptography
signs, and a bare socket carries exactly the bytes that a test wants.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner.emulator import Emulator

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Caller:
    """A client: a private key, its certificate, and the intermediates that it sends."""

    key: Any
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def algorithm(self) -> str:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return "AWS4-X509-RSA-SHA256"
        return "AWS4-X509-ECDSA-SHA256" if isinstance(self.key, ec.EllipticCurvePrivateKey) else "AWS4-X509-MLDSA"

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(message, ec.ECDSA(hashes.SHA256()))
        signature: bytes = self.key.sign(message)
        return signature


@dataclass(frozen=True)
class Draft:
    """A CreateSession request before signing. Fields that are None get valid values."""

    caller: Caller
    arns: dict[str, str]
    host: str
    path: str = "/sessions"
    method: str = "POST"
    query: str | None = None
    body: bytes = b'{"durationSeconds":3600}'
    content_type: str = "application/json"
    date: str | None = None
    scope_date: str | None = None
    region: str = "us-east-1"
    service: str = "rolesanywhere"
    serial: str | None = None
    algorithm: str | None = None
    certificate_text: str | None = None
    chain_text: str | None = None
    extra: Headers = ()
    unsigned: frozenset[str] = frozenset()
    names: Callable[[list[str]], list[str]] = sorted
    signature: Callable[[str], str] = str

    @property
    def target(self) -> str:
        query = "&".join(f"{name}={quote(arn, safe='')}" for name, arn in self.arns.items())
        query = query if self.query is None else self.query
        return f"{self.path}?{query}" if query else self.path

    def headers(self) -> Headers:
        """Return all headers but Authorization."""
        date = self.date or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        certificate = b64(self.caller.certificate) if self.certificate_text is None else self.certificate_text
        chain = ",".join(map(b64, self.caller.chain)) if self.chain_text is None else self.chain_text
        headers = [("Host", self.host), ("Content-Type", self.content_type)]
        headers += [("X-Amz-Date", date), ("X-Amz-X509", certificate)]
        headers += [("X-Amz-X509-Chain", chain)] if chain else []
        return (*headers, *self.extra)

    def signed(self) -> Request:
        """Return the request, signed."""
        headers = self.headers()
        names = self.names(sorted({name.lower() for name, _ in headers} - self.unsigned))
        text = canonical_request(Request(self.method, self.target, headers, self.body), names)
        date = dict(headers)["X-Amz-Date"]
        algorithm = self.algorithm or self.caller.algorithm
        scope = f"{self.scope_date or date[:8]}/{self.region}/{self.service}/aws4_request"
        digest = hashlib.sha256(text.encode()).hexdigest()
        signature = self.caller.sign(f"{algorithm}\n{date}\n{scope}\n{digest}".encode()).hex()
        credential = f"{self.serial or self.caller.certificate.serial_number}/{scope}"
        fields = f"Credential={credential}, SignedHeaders={';'.join(names)}, Signature={self.signature(signature)}"
        authorization = ("Authorization", f"{algorithm} {fields}")
        return Request(self.method, self.target, (*headers, authorization), self.body)


@dataclass(frozen=True)
class Request:
    """A request as it is sent."""

    method: str
    target: str
    headers: Headers
    body: bytes = b""

    def to_bytes(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers)]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body

    def without(self, name: str) -> Request:
        return replace(self, headers=tuple(each for each in self.headers if each[0] != name))

    def with_header(self, name: str, value: str) -> Request:
        """Return the request with a header replaced."""
        return replace(self, headers=(*self.without(name).headers, (name, value)))


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def credentials(self) -> dict[str, str]:
        found: dict[str, str] = self.json["credentialSet"][0]["credentials"]
        return found


def b64(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


def canonical_request(request: Request, names: list[str]) -> str:
    """Return botocore's canonical request with these headers signed."""
    made = AWSRequest(request.method, f"http://localhost{request.target}", data=request.body)
    for name, value in request.headers:
        if name.lower() in names:
            made.headers.add_header(name, value)
    text: str = SigV4Auth(Credentials("", ""), "rolesanywhere", "us-east-1").canonical_request(made)
    return text


def draft(emulator: Emulator, caller: Caller, **changes: Any) -> Draft:
    """Return a request to an emulator for its first trust anchor, profile and role."""
    arns = {"profileArn": emulator.profile_arn, "roleArn": emulator.role_arn}
    arns["trustAnchorArn"] = emulator.trust_anchor_arn
    return replace(Draft(caller, arns, urlsplit(emulator.url).netloc), **changes)


def connect(emulator: Emulator) -> socket.socket:
    address = urlsplit(emulator.url)
    return socket.create_connection((address.hostname, address.port or 0), timeout=60)


def send(emulator: Emulator, request: Request | bytes) -> Reply:
    """Send a request on a new connection, and return the answer."""
    with connect(emulator) as connection:
        connection.sendall(request if isinstance(request, bytes) else request.to_bytes())
        return read_reply(connection)


def read_reply(connection: socket.socket) -> Reply:
    response = http.client.HTTPResponse(connection)
    response.begin()
    with response:
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def create_session(emulator: Emulator, caller: Caller, **changes: Any) -> Reply:
    return send(emulator, draft(emulator, caller, **changes).signed())
