"""Servers and proxies on 127.0.0.1 in a few lines of raw sockets, with any fault that a test needs."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hwsigner._http.address import Endpoint

OK = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-Amzn-RequestId: r-1\r\n\r\nhi"

Serve = Callable[["Connection"], None]


class Connection:
    """An accepted socket, or TLS over it, as a server's function gets it."""

    def __init__(self, sock: socket.socket, stopping: threading.Event) -> None:
        self.sock = sock
        self.stopping = stopping

    def read_head(self) -> bytes:
        """Read a request's headers, including the blank line after them."""
        head = b""
        while not head.endswith(b"\r\n\r\n") and (byte := self.sock.recv(1)):
            head += byte
        return head

    def read_request(self) -> bytes:
        head = self.read_head()
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        body = b""
        while len(body) < length and (data := self.sock.recv(length - len(body))):
            body += data
        return head + body

    def drip(self, data: bytes, pause: float = 0.02) -> None:
        """Send one byte at a time, then nothing until the test ends."""
        for byte in data:
            self.sock.sendall(bytes([byte]))
            if self.stopping.wait(pause):
                return
        self.stopping.wait(30)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Server:
    """A server that runs a function for each connection, each in its own thread, while the `with` block lasts.

    Attributes:
        port: the port that it listens on.
        requests: requests recorded by the function, in order.
        accepted: how many connections were accepted.
    """

    def __init__(self, serve: Serve, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.accepted = 0
        self._serve = serve
        self._context = context
        self._stopping = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopping.set()
        for sock in [self._listener, *self._open]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def endpoint(self, scheme: str = "http", host: str = "127.0.0.1") -> Endpoint:
        return Endpoint(scheme, host, self.port, "/sessions")

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted += 1
                self._open.append(sock)
                self._threads.append(threading.Thread(target=self._run, args=(sock,)))
                self._threads[-1].start()

    def _run(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            if self._context is None:
                self._serve(Connection(sock, self._stopping))
                return
            with self._context.wrap_socket(sock, server_side=True) as tls:
                self._open.append(tls)
                self._serve(Connection(tls, self._stopping))


def answering(answer: bytes = OK) -> Serve:
    """Return a function that reads a request and sends these bytes."""

    def serve(connection: Connection) -> None:
        connection.read_request()
        connection.sock.sendall(answer)

    return serve


def recording(requests: list[bytes], answer: bytes = OK) -> Serve:
    """Return a function that records each request and sends these bytes."""

    def serve(connection: Connection) -> None:
        requests.append(connection.read_request())
        connection.sock.sendall(answer)

    return serve


def connect_proxy(heads: list[bytes], ports: Mapping[str, int], authorization: str | None = None) -> Serve:
    """Return a CONNECT proxy that connects each known `host:port` to a port of 127.0.0.1.

    Args:
        heads: the head of each request is appended to it.
        ports: the known hosts; others get status 502.
        authorization: the required `Proxy-Authorization`; others get status 407.
    """

    def serve(connection: Connection) -> None:
        head = connection.read_head()
        heads.append(head)
        port = ports.get(head.split(b" ")[1].decode())
        if authorization and f"\r\nProxy-Authorization: {authorization}\r\n".encode() not in head:
            connection.sock.sendall(b"HTTP/1.1 407 Who Are You\r\nContent-Length: 0\r\n\r\n")
        elif port is None:
            connection.sock.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        else:
            with socket.create_connection(("127.0.0.1", port)) as other:
                connection.sock.sendall(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
                back = threading.Thread(target=pump, args=(other, connection.sock))
                back.start()
                pump(connection.sock, other)
                back.join(10)

    return serve


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on all bytes of one socket to another until either ends, and shut both down."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for sock in (source, sink):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class ServerCA:
    """A CA for TLS servers, in a folder: `ca.pem` and the certificates that it issues.

    Attributes:
        path: the CA's own certificate, in PEM.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Loopback CA")])
        self.path = folder / "ca.pem"
        self.path.write_bytes(self._certificate(self._key, self._name, 30, x509.BasicConstraints(True, None), _SIGNS))

    def context(self, *names: str, days: float = 30) -> ssl.SSLContext:
        """Return a server's TLS context, whose certificate has these names and addresses and expires in `days`."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        path = self._folder / f"{'-'.join(names).replace(':', '_')}{days}.pem"
        path.write_bytes(
            self._certificate(key, x509.Name([]), days, alternatives)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _certificate(
        self, key: ec.EllipticCurvePrivateKey, subject: x509.Name, days: float, *extensions: x509.ExtensionType
    ) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=60)).not_valid_after(now + timedelta(days=days))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        # Python 3.13 refuses certificates without these, and CAs without a key usage.
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(own, critical=False).add_extension(issuer, critical=False)
        return builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
