"""An API server of the tests: TLS, TokenReview and the cluster's keys, with the answers of a real one (1.36)."""

from __future__ import annotations

import base64
import ipaddress
import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

import certs
from cluster.pki import make_cluster_ca

ISSUER = "https://kubernetes.default.svc.cluster.local"
OWN_TOKEN = "own.token.first"
_HASHES: dict[str, Any] = {"256": SHA256, "384": SHA384, "512": SHA512}


def encode(data: bytes | Mapping[str, Any]) -> str:
    """Return base64url without padding, of bytes or of JSON."""
    raw = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a token of a Pod on node1, with changes. None leaves a claim out."""
    now = int(time.time())
    pod: dict[str, Any] = {
        "aud": ["hwsigner"],
        "exp": now + 3600,
        "iat": now,
        "iss": ISSUER,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": bound(),
        "nbf": now,
        "sub": "system:serviceaccount:team-a:web",
    }
    return {name: value for name, value in (pod | changes).items() if value is not None}


def bound(**changes: Any) -> dict[str, Any]:
    """Return what a token is bound to, with changes. None leaves it out."""
    objects: dict[str, Any] = {
        "namespace": "team-a",
        "node": {"name": "node1", "uid": "3834c2d1-ca3f-44fe-9d63-0dcac825b414"},
        "pod": {"name": "web-1", "uid": "8f020469-114a-4cac-acf7-3503ccc632b6"},
        "serviceaccount": {"name": "web", "uid": "8b8b6450-9a1a-4c1d-9598-7b3fbbe0bb9b"},
    }
    return {name: value for name, value in (objects | changes).items() if value is not None}


@dataclass(frozen=True)
class ClusterIssuer:
    """A signing key of the cluster. It signs without PyJWT."""

    key: Any
    key_id: str
    algorithm: str

    def sign(self, body: Mapping[str, Any] | bytes, header: Mapping[str, Any] | None = None) -> str:
        """Return a token. The header may say another algorithm than the one that signs."""
        head = {"alg": self.algorithm, "kid": self.key_id} if header is None else header
        text = f"{encode(head)}.{encode(body)}"
        return f"{text}.{encode(self._signature(text.encode()))}"

    def token(self, **changes: Any) -> str:
        return self.sign(claims(**changes))

    def verifies(self, token: str) -> bool:
        """Return whether this key signed a token."""
        text, _, last = token.rpartition(".")
        signature = base64.urlsafe_b64decode(last + "=" * (-len(last) % 4))
        chosen = _HASHES[self.algorithm[2:]]()
        public = self.key.public_key()
        try:
            if self.algorithm[0] == "R":
                public.verify(signature, text.encode(), padding.PKCS1v15(), chosen)
            else:
                half = (public.curve.key_size + 7) // 8
                if len(signature) != 2 * half:
                    return False
                pair = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
                public.verify(encode_dss_signature(*pair), text.encode(), ec.ECDSA(chosen))
        except InvalidSignature:
            return False
        return True

    def jwk(self) -> dict[str, str]:
        numbers = self.key.public_key().public_numbers()
        head = {"use": "sig", "kid": self.key_id, "alg": self.algorithm}
        if isinstance(self.key, rsa.RSAPrivateKey):
            return head | {"kty": "RSA", "n": _integer(numbers.n), "e": _integer(numbers.e)}
        size = (self.key.curve.key_size + 7) // 8
        names = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
        point = {"x": encode(numbers.x.to_bytes(size)), "y": encode(numbers.y.to_bytes(size))}
        return head | {"kty": "EC", "crv": names[self.key.curve.name], **point}

    def _signature(self, text: bytes) -> bytes:
        chosen = _HASHES[self.algorithm[2:]]()
        if self.algorithm[0] == "R":
            return bytes(self.key.sign(text, padding.PKCS1v15(), chosen))
        size = (self.key.curve.key_size + 7) // 8
        r, s = decode_dss_signature(self.key.sign(text, ec.ECDSA(chosen)))
        return r.to_bytes(size) + s.to_bytes(size)


def _integer(number: int) -> str:
    return encode(number.to_bytes((number.bit_length() + 7) // 8))


RSA_ISSUER = ClusterIssuer(rsa.generate_private_key(65537, 2048), "rsa-key", "RS256")
OTHER_ISSUER = ClusterIssuer(rsa.generate_private_key(65537, 2048), "other-key", "RS256")
EC_ISSUER = ClusterIssuer(ec.generate_private_key(ec.SECP256R1()), "ec-key", "ES256")


def status_of(token: str, audiences: list[str], issuer: ClusterIssuer = RSA_ISSUER) -> dict[str, Any]:
    """Return the status of a TokenReview, as a real server with anonymous access gives it."""
    if token[:1].isspace():
        user = {"username": "system:anonymous", "groups": ["system:unauthenticated"]}
        return {"authenticated": True, "user": user, "audiences": audiences}
    token = token.split()[0]
    try:
        said = decode(token.split(".")[1])
        is_signed = issuer.verifies(token)
    except (ValueError, IndexError):
        return no("invalid bearer token")
    if not is_signed:
        return no("[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]")
    common = [one for one in audiences if one in said["aud"]]
    if not common:
        return no(f"[invalid bearer token, token audiences {said['aud']} is invalid for the target audiences]")
    return yes(said, common)


def no(error: str | None) -> dict[str, Any]:
    """Return a "no". `authenticated` is absent, and sometimes the error too."""
    return {"user": {}} if error is None else {"user": {}, "error": error}


def yes(said: Mapping[str, Any], audiences: list[str]) -> dict[str, Any]:
    """Return the "yes" about a token with these claims."""
    of = said["kubernetes.io"]
    extra = {"authentication.kubernetes.io/credential-id": [f"JTI={said.get('jti')}"]}
    for kind in ("node", "pod"):
        for name, value in of.get(kind, {}).items():
            extra[f"authentication.kubernetes.io/{kind}-{name}"] = [value]
    namespace, account = of["namespace"], of["serviceaccount"]
    user = {
        "username": f"system:serviceaccount:{namespace}:{account['name']}",
        "uid": account["uid"],
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        "extra": extra,
    }
    return {"authenticated": True, "user": user, "audiences": audiences}


def failure(code: int, reason: str, message: str) -> bytes:
    """Return the body of a refused request."""
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return json.dumps({**head, "message": message, "reason": reason, "code": code}).encode()


class Exchange(BaseHTTPRequestHandler):
    """A connection. `give` and the socket are for the answers of tests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener
    body: bytes = b""

    def setup(self) -> None:
        self.request = self.server.api.context.wrap_socket(self.request, server_side=True)
        self.server.api.connections += 1
        super().setup()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        self.connection.close()

    def respond(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.api.requests.append((self.command, self.path, dict(self.headers), self.body))
        self.server.api.answer(self)

    do_GET = do_POST = respond  # noqa: N815

    def give(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def give_status(self, status: Mapping[str, Any]) -> None:
        review = json.loads(self.body)
        self.give(201, json.dumps({**review, "metadata": {}, "status": status}).encode())

    def drop(self) -> None:
        """Close the connection without an answer, as a panic does."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    api: ApiServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing: clients may leave."""


@dataclass
class ApiServer:
    """The server.

    Attributes:
        folder: what a Pod has of it: `ca.crt` and `token`.
        context: its TLS.
        answer: answers requests.
        keys: its signing keys.
        requests: the requests: method, path, headers and body.
        connections: how many there were.
    """

    folder: Path
    context: ssl.SSLContext
    answer: Callable[[Exchange], None] = lambda exchange: answer_well(exchange)
    keys: list[ClusterIssuer] = field(default_factory=lambda: [RSA_ISSUER])
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def reviews(self) -> list[Any]:
        """The reviews that were asked for."""
        return [json.loads(body) for method, _, _, body in self.requests if method == "POST"]


def answer_well(exchange: Exchange) -> None:
    """Answer as a healthy server does."""
    api = exchange.server.api
    own = (api.folder / "token").read_text().strip()
    if exchange.headers["Authorization"] != f"Bearer {own}":
        exchange.give(401, failure(401, "Unauthorized", "Unauthorized"))
    elif exchange.path == "/openid/v1/jwks":
        if exchange.headers["Accept"] not in ("*/*", "application/jwk-set+json"):
            exchange.give(406, failure(406, "NotAcceptable", "only application/jwk-set+json"))
        body = json.dumps({"keys": [one.jwk() for one in api.keys]}).encode()
        exchange.give(200, body, {"Content-Type": "application/jwk-set+json", "Cache-Control": "public, max-age=3600"})
    else:
        spec = json.loads(exchange.body)["spec"]
        exchange.give_status(status_of(spec["token"], spec.get("audiences") or [ISSUER], api.keys[0]))


@contextmanager
def api_server(folder: Path, ca: certs.Authority | None = None, host: str = "127.0.0.1") -> Iterator[ApiServer]:
    """Run a server whose certificate is for a host.

    Args:
        folder: where a Pod's files of it are written.
        ca: its CA.
        host: the name or IP address in its certificate.
    """
    authority = ca or make_cluster_ca()
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_bytes(authority.pem)
    (folder / "token").write_text(OWN_TOKEN)
    api = ApiServer(folder, _context(folder.parent, authority, host))
    listener = _Listener(("127.0.0.1", 0), Exchange)
    listener.api = api
    port = listener.server_address[1]
    api.environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        listener.shutdown()
        listener.server_close()


def _context(folder: Path, ca: certs.Authority, host: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    builder = _named("kube-apiserver", "kubernetes", key.public_key())
    builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False)
    with suppress(x509.ExtensionNotFound):
        own = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        builder = builder.add_extension(identifier, critical=False)
    leaf = folder / "server.crt"
    leaf.write_bytes(builder.sign(ca.key, SHA256()).public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf, certs.write_key(folder / "server.key", key))
    return context


def _named(name: str, issuer: str, public_key: Any) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
    )
