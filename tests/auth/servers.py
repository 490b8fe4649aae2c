"""Loopback servers that record requests, botocore's verdict on them, and a body that can be sent only once."""

from __future__ import annotations

import hashlib
import io
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


@dataclass(frozen=True)
class Key:
    access_key_id: str = "ASIDEXAMPLE00000"
    secret_access_key: str = "sec/ret"
    session_token: str = "to/ken=="


KEY = Key()


@dataclass(frozen=True)
class Received:
    """A request as it was received."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    port: int

    def header(self, name: str) -> str | None:
        found = [value for other, value in self.headers if other.lower() == name.lower()]
        assert len(found) <= 1
        return found[0].strip(" \t") if found else None

    def is_signed(self, key: Key = KEY) -> bool:
        """Return whether botocore computes the same signature for this request."""
        authorization = self.header("Authorization") or ""
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=(\S+)/(\d{8})/(\S+)/(\S+)/aws4_request, "
            r"SignedHeaders=(\S+), Signature=([0-9a-f]{64})",
            authorization,
        )
        if found is None:
            return False
        access_key_id, _, region, service, names, signature = found.groups()
        auth = (botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth)(
            Credentials(key.access_key_id, key.secret_access_key, key.session_token), service, region
        )
        path, _, query = self.target.partition("?")
        query = urlencode(parse_qsl(query, True, encoding="latin-1"), quote_via=quote, safe="~", encoding="latin-1")
        sent = AWSRequest(method=self.method, url=f"http://unused{path}?{query}", data=self.body)
        sent.context["payload_signing_enabled"] = True
        for name in names.split(";"):
            sent.headers[name] = self.header(name)
        sent.context["timestamp"] = self.header("X-Amz-Date")
        assert sent.headers["host"]
        canonical = auth.canonical_request(sent)
        hashed = self.header("X-Amz-Content-SHA256")
        assert hashed in (None, "UNSIGNED-PAYLOAD", hashlib.sha256(self.body).hexdigest())
        expected = auth.signature(auth.string_to_sign(sent, canonical), sent)
        return access_key_id == key.access_key_id and expected == signature


class ReadOnce:
    """A stream of known length that can't be rewound, like MultipartEncoder."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)
        self.len = len(data)

    def __iter__(self) -> Iterator[bytes]:
        yield self.read()

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


class _HTTPServer(ThreadingHTTPServer):
    """A server with room for many threads that connect at once: the kernel resets what does not fit."""

    request_queue_size = 128


@dataclass
class Server:
    """A server that answers 200, or the status and Location in `answers` for a path, while the `with` block lasts."""

    answers: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    context: ssl.SSLContext | None = None
    received: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._server = _HTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if self.context:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    @property
    def last(self) -> Received:
        return self.received[-1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            headers = [(name, value) for name, value in self.headers.items()]
            target = self.requestline.split(" ")[1]
            server.received.append(Received(self.command, target, headers, self._body(), server.port))
            status, location = server.answers.get(target.partition("?")[0], (200, ""))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, format: str, *args: Any) -> None:
            pass

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    return Handler
