"""HTTP for the registrar: one request in each connection, a thread for each, and limits on number, size and time.

Threads, since an issuer may take long to answer. A connection that is over its time is shut down by the thread that
accepts connections, whatever its own thread waits for: the handshake, a byte, or a client that does not read.

Verifying takes processor time, so one thread at a time does it. Behind it waits one thread of each address, and the
others of that address behind that one, so that a flood from a few addresses delays other clients by a few turns.
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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from hwsigner._system.sockets import has_left
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
    """An open connection: whose it is, how far its request is, and when it is shut down."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.network = network(address)
        self.of_network = threading.Lock()  # The connections of a network share one.
        self.sock = sock.dup()  # TLS takes the other one over.
        self.has_request = self.has_turn = False
        self.end = time.monotonic() + RECEIVE_SECONDS

    def answer(self) -> None:
        """Note that the request has come."""
        self.has_request = True
        self.end = time.monotonic() + ANSWER_SECONDS

    @contextmanager
    def turn(self, working: threading.Lock) -> Iterator[Callable[[], bool]]:
        """Wait until nobody else is working. The value says whether the client has left since.

        If the client leaves before its turn, this is a ConnectionError.
        """
        with self.of_network, working:
            self.has_turn = True
            if self._has_left():
                raise ConnectionError("the client has left")
            yield self._has_left

    def _has_left(self) -> bool:
        return has_left(self.sock)

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
        self.working = threading.Lock()
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
                own = [other for other in self._connections.values() if other.network == one.network]
                one.of_network = own[0].of_network
                is_full = sum(bool(other.end) for other in self._connections.values()) > MAX_CONNECTIONS
                is_ok = len(own) <= self.connections_of_address and (not is_full or self._make_room(one))
                is_ok = is_ok and len(self._connections) <= 2 * MAX_CONNECTIONS  # Those that are shut end soon.
                [(busiest, count)] = self._networks().most_common(1)
            if is_full or not is_ok:
                self.note_flood(client_address[0], f"open connections, {count} of them from {busiest}")
        except OSError:  # No descriptor is free, or the audit line can't be written.
            return False
        return is_ok

    def _networks(self) -> Counter[str]:
        """Return the number of connections of each network."""
        return Counter(one.network for one in self._connections.values())

    def _make_room(self, newest: _Connection) -> bool:
        """Shut down a connection for a new one, and return whether there is one that may be.

        Of those without a request, it is the oldest of the network that has most, so that idle connections of a few
        addresses shut only each other; the new one's own network counts the new one, and comes first on a tie. If all
        requests have come, it is the last one that waits for its turn, of the network that has most connections, and
        more than the new one's.
        """
        others = [one for one in self._connections.values() if one.end and one is not newest]
        if slow := [one for one in others if not one.has_request]:
            idle = Counter(one.network for one in (*slow, newest))
            most = max(idle[one.network] for one in slow)
            if most > idle[newest.network]:
                slow = [one for one in slow if idle[one.network] == most]
            else:
                slow = [one for one in slow if one.network == newest.network] or slow
            min(slow, key=lambda one: one.end).shut()
            return True
        count = self._networks()
        queued = [one for one in others if not one.has_turn and count[one.network] > count[newest.network]]
        if queued:
            max(queued, key=lambda one: (count[one.network], one.end)).shut()
        return bool(queued)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection's request, in its own thread."""
        with self._tls.wrap_socket(request, server_side=True) if self._tls else request as stream:
            _RequestHandler(self._connections[id(request)], stream, client_address, self)

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


class _RequestHandler(BaseHTTPRequestHandler):
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
        self.server.audit({"client": address, "decision": "received", "path": self.path})  # Before the work.
        turn = self._limits.turn(self.server.working)
        if self.path == CHALLENGE_PATH:
            return self.server.registrar.challenge(body, address, turn)
        return self.server.registrar.certify(body, address, turn)

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
