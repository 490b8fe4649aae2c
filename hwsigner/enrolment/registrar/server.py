"""HTTP for the registrar: one request in each connection, a thread for each, and limits on number, size and time.

Threads, since an issuer may take long to answer. A connection that is over its time is shut down by the thread that
accepts connections, whatever its own thread waits for: the handshake, a byte, or a client that does not read.
"""

from __future__ import annotations

import io
import math
import re
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from hwsigner.enrolment.registrar.limits import RateLimit, network
from hwsigner.enrolment.registrar.registrar import LONGEST_REASON, Audit, RefusedRequest, Registrar
from hwsigner.enrolment.registrar_messages import CERTIFICATE_PATH, CHALLENGE_PATH, MAX_BODY_BYTES, write_object

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_CONNECTIONS = 64
CONNECTIONS_OF_ADDRESS = 16
MAX_HEAD_BYTES = 8192
# For the handshake and the request; then for the issuer and the answer.
RECEIVE_SECONDS = 10.0
ANSWER_SECONDS = 90.0
# For the answers that are due when the server is stopped.
DRAIN_SECONDS = 5.0
_LOOK_SECONDS = 0.25
# Between two audit lines about too many requests: a flood must not flood the log.
_FLOOD_LINE_SECONDS = 10.0
_NUMBER = re.compile(r"[0-9]{1,9}")


class _Connection:
    """An open connection: whose it is, whether its request has come, and when it is shut down."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.network = network(address)
        self.sock = sock.dup()  # TLS takes the other one over.
        self.has_request = False
        self.end = time.monotonic() + RECEIVE_SECONDS

    def answer(self) -> None:
        """Note that the request has come."""
        self.has_request = True
        self.end = time.monotonic() + ANSWER_SECONDS

    def shut(self) -> None:
        """Shut it down, which ends what its thread waits for."""
        self.end = 0.0
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class RegistrarServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server of a registrar.

    Args:
        registrar: makes the decisions.
        listener: the listening socket; closed at the end.
        limit: the limit of requests.
        audit: takes the facts about requests that do not reach the registrar, and at most every 10 seconds about a
            flood of them.
        tls: the server's TLS; None for none.

    Attributes:
        connections_of_address: the most open connections of one address, or IPv6 network of 64 bits.
    """

    daemon_threads = True
    block_on_close = False
    connections_of_address = CONNECTIONS_OF_ADDRESS

    def __init__(
        self,
        registrar: Registrar,
        listener: socket.socket,
        *,
        limit: RateLimit,
        audit: Audit,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        # `finish_request` makes the handlers.
        super().__init__(listener.getsockname()[:2], socketserver.BaseRequestHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.registrar = registrar
        self.limit = limit
        self.audit = audit
        self._tls = tls
        self._lock = threading.Lock()
        self._connections: dict[int, _Connection] = {}  # By the id of the accepted socket.
        self._flood_line = -_FLOOD_LINE_SECONDS

    def run(self) -> None:
        """Serve until `shutdown` is called, and then wait for the answers that are due."""
        self.serve_forever(_LOOK_SECONDS)
        self.server_close()
        end = time.monotonic() + DRAIN_SECONDS
        while self._connections and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS / 10)

    def note_flood(self, address: str, of: str = "requests") -> None:
        """Write an audit line about too many requests or connections, unless there was one just now."""
        with self._lock:
            is_due = time.monotonic() > self._flood_line + _FLOOD_LINE_SECONDS
            if is_due:
                self._flood_line = time.monotonic()
        if is_due:
            self.audit({"client": address, "decision": "limited", "reason": f"too many {of}"})

    def note_refusal(self, address: str, reason: str) -> None:
        """Write an audit line about a request that does not reach the registrar. It counts as one that does."""
        if self.limit.wait_for(address):
            self.note_flood(address)
        else:
            self.audit({"client": address, "decision": "refused", "reason": reason[:LONGEST_REASON]})

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether there is room for a connection. If not, it is closed, without a TLS handshake."""
        try:
            one = _Connection(request, client_address[0])
            with self._lock:
                self._connections[id(request)] = one
                of_address = sum(other.network == one.network for other in self._connections.values())
                is_full = len(self._connections) > MAX_CONNECTIONS
                is_ok = of_address <= self.connections_of_address and (not is_full or self._make_room(one))
            if is_full or not is_ok:
                self.note_flood(client_address[0], "open connections")
        except OSError:  # No descriptor is free, or the audit line can't be written.
            return False
        return is_ok

    def _make_room(self, newest: _Connection) -> bool:
        """Shut down the connection whose request takes longest to come, and return whether there is one."""
        waiting = [one for one in self._connections.values() if one.end and not one.has_request and one is not newest]
        if waiting:
            min(waiting, key=lambda one: one.end).shut()
        return bool(waiting)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection's request, in its own thread."""
        with self._tls.wrap_socket(request, server_side=True) if self._tls else request as stream:
            _Handler(self._connections[id(request)], stream, client_address, self)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and forget it."""
        with self._lock:
            one = self._connections.pop(id(request), None)
        if one:
            one.sock.close()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Shut down the connections that are over their time. Called a few times a second."""
        now = time.monotonic()
        with self._lock:
            for one in self._connections.values():
                if one.end < now:
                    one.shut()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have left or speak no TLS. Of a fault of our own, write a line without a traceback."""
        error = sys.exception()
        if not isinstance(error, OSError):
            with suppress(OSError):  # An error here would end the server.
                self.note_failure(client_address[0], error)

    def note_failure(self, address: str, error: BaseException | None) -> None:
        """Write an audit line about a fault of our own. Its text could have a secret."""
        reason = f"internal error: {type(error).__name__}"
        self.audit({"client": address, "decision": "failed", "reason": reason})


class _Handler(BaseHTTPRequestHandler):
    """Reads one request and sends its answer."""

    protocol_version = default_request_version = "HTTP/1.1"
    server: RegistrarServer

    def __init__(self, limits: _Connection, stream: socket.socket, client: Any, server: RegistrarServer) -> None:
        self._limits = limits
        super().__init__(stream, client, server)

    def setup(self) -> None:
        """Limit what is read."""
        super().setup()
        self.rfile = io.BufferedReader(_LimitedReader(self.connection, MAX_HEAD_BYTES + MAX_BODY_BYTES))

    def handle(self) -> None:
        """Answer one request; a second one in the connection is not read."""
        self.close_connection = True
        self.handle_one_request()

    def do_POST(self) -> None:
        """Answer a request."""
        address = self.client_address[0]
        try:
            self._send(HTTPStatus.OK, self._answer(self._body(), address))
        except RefusedRequest as refusal:
            if refusal.status == HTTPStatus.TOO_MANY_REQUESTS:
                self.server.note_flood(address)
            self._refuse(refusal)
        except OSError:
            raise  # The client has left, or its time is over.
        except Exception as error:
            self.server.note_failure(address, error)
            self._refuse(RefusedRequest(HTTPStatus.INTERNAL_SERVER_ERROR, "the registrar failed", "Its log has more"))

    def _answer(self, body: bytes, address: str) -> dict[str, Any]:
        if self.path not in (CHALLENGE_PATH, CERTIFICATE_PATH):
            problem = f"the registrar has nothing at the path {self.path[:100]!r}"
            raise self._turned_away(HTTPStatus.NOT_FOUND, problem, "Check the registrar's URL")
        wait = self.server.limit.wait_for(address)
        if wait:
            problem = "the registrar gets too many requests"
            raise RefusedRequest(HTTPStatus.TOO_MANY_REQUESTS, problem, "Retry later", retry_after=wait)
        self._limits.answer()
        if self.path == CHALLENGE_PATH:
            return self.server.registrar.challenge(body, address)
        return self.server.registrar.certify(body, address)

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or not _NUMBER.fullmatch(lengths[0]) or "Transfer-Encoding" in self.headers:
            problem = "the request does not have one Content-Length"
            raise self._turned_away(HTTPStatus.LENGTH_REQUIRED, problem, "Update hwsigner")
        length = int(lengths[0])
        if length > MAX_BODY_BYTES:
            problem = f"the request has more than {MAX_BODY_BYTES} bytes"
            raise self._turned_away(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, problem, "Send fewer certificates")
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client has left")
        return body

    def _turned_away(self, status: HTTPStatus, problem: str, hint: str) -> RefusedRequest:
        """Return the refusal of a request that does not reach the registrar, after its audit line."""
        self.server.note_refusal(self.client_address[0], problem)
        return RefusedRequest(status, problem, hint)

    def _refuse(self, refusal: RefusedRequest) -> None:
        headers = {"Retry-After": str(math.ceil(refusal.retry_after))} if refusal.retry_after else {}
        self._send(refusal.status, {"error": refusal.message, "hint": refusal.hint}, headers)

    def _send(self, status: HTTPStatus, members: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        body = write_object(members)
        self.send_response_only(status)
        given = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        for name, value in {**given, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send a refusal. Called by the base class if the request is not HTTP, or has another method than POST."""
        problem = message or HTTPStatus(code).phrase
        self._refuse(self._turned_away(HTTPStatus(code), problem, "Check the registrar's URL"))

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: the audit lines say what happened."""


class _LimitedReader(io.RawIOBase):
    """The bytes of a connection, up to a number. Then they end, as if the client had left."""

    def __init__(self, sock: socket.socket, most: int) -> None:
        self._sock = sock
        self._left = most

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Receive some bytes."""
        count = self._sock.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count
