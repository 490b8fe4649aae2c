"""Invalid and excessive requests: refused within bounds, without delay for other clients."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from hwsigner._serving import connections, credentials, protocol, server
from hwsigner._serving.connections import Connections
from judges import needs_netlink
from loopback import ServerCA
from serving.conftest import TOKEN, Running, run_server
from serving.raw import Client
from serving.test_endpoints import AUTHORIZED, READY, SECONDS, WEB


def _served(running: Running) -> bool:
    """Whether a well-behaved client is answered."""
    with running.client() as client:
        return client.ask("GET", WEB, AUTHORIZED).status == 200


def _flood(client: Client, data: bytes, most: int = 100_000_000) -> int:
    """Send until the server closes the connection, and return how many bytes were sent."""
    sent = 0
    try:
        while sent < most:
            sent += client.sock.send(data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (b"GET / HTTP/1.1\r\n", b"X-Header: abcdefghijklmnop\r\n" * 1000),
        (b"GET / HTTP/1.1\r\nX: ", b"a" * 65536),
        (b"GET /", b"a" * 65536),
        (b"", b"\r\n" * 32768),
        (b"PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n", b"a" * 65536),
        (
            b"PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\na\r\n" * 9999,
        ),
    ],
    ids=["headers", "header", "path", "newlines", "body", "chunks"],
)
@needs_netlink
def test_endless_request_is_cut_off(client: Client, running: Running, beginning: bytes, more: bytes) -> None:
    client.sock.sendall(beginning)
    # Most of it is what the kernel buffers at both ends.
    assert _flood(client, more) < 10_000_000
    assert _served(running)
    assert len(running.log) == 1
    assert "400" in running.log[0]


def test_head_of_16_kib_is_read_and_one_byte_more_is_refused(client: Client) -> None:
    lines = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\nX: "
    room = protocol.MAX_BYTES - len(lines) - 4
    client.sock.sendall(f"{lines}{'a' * room}\r\n\r\n".encode())
    assert client.receive().status == 200
    client.sock.sendall(f"{lines}{'a' * (room + 1)}\r\n\r\n".encode())
    assert client.rest().startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\x80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nNo colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET http://evil.example:99999/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_invalid_http_is_refused(client: Client, running: Running, request_: bytes) -> None:
    client.sock.sendall(request_)
    status = int(client.rest().split(b" ")[1])
    assert status in (400, 403, 404, 405)
    assert _served(running)
    assert len(running.log) == 1


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Host": ""}, "there is no Host header"),
        ({"hOST": "127.0.0.1"}, "a header is repeated"),
        ({"Authorization": "x", "authorization": TOKEN.decode()}, "a header is repeated"),
        ({"X-Forwarded-For": "1.1.1.1"}, "the request has x-forwarded-for"),
        ({"Content-Length": "1"}, "the request has a body"),
        ({"Transfer-Encoding": "chunked"}, "the request has a body"),
    ],
)
def test_invalid_headers_are_refused(client: Client, headers: dict[str, str], reason: str) -> None:
    client.send("GET", WEB, {**AUTHORIZED, **headers})
    answer = client.rest()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
    assert reason.encode() in answer


def test_http_1_0_is_answered_and_the_connection_closed(client: Client) -> None:
    client.send("GET", WEB, AUTHORIZED, version="1.0")
    answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer
    assert answer.endswith(READY)


@pytest.mark.parametrize(("count", "status"), [(protocol.MAX_HEADERS, 200), (protocol.MAX_HEADERS + 1, 400)])
def test_head_of_64_headers_is_read_and_one_header_more_is_refused(client: Client, count: int, status: int) -> None:
    others = {f"x{number}": "y" for number in range(count - 3)}  # Beside Host, Authorization and Connection.
    client.send("GET", WEB, {**AUTHORIZED, **others, "Connection": "close"})
    assert client.rest().startswith(f"HTTP/1.1 {status} ".encode())


def test_chunked_put_gets_no_token(client: Client) -> None:
    client.send("PUT", "/latest/api/token", {SECONDS: "60", "Transfer-Encoding": "chunked"})
    client.sock.sendall(b"0\r\n\r\n")
    assert client.rest().startswith(b"HTTP/1.1 400 ")


def test_expect_100_continue_is_answered(client: Client) -> None:
    client.send("PUT", "/latest/api/token", {SECONDS: "60", "Expect": "100-continue", "Content-Length": "4"})
    assert client.rest().startswith(b"HTTP/1.1 400 ")


def test_requests_sent_ahead_are_answered_in_order(client: Client) -> None:
    for path in (WEB, WEB, "/nothing"):
        client.send("GET", path, AUTHORIZED)
    assert [client.receive().status for _ in range(3)] == [200, 200, 404]


def test_more_than_two_waiting_requests_are_cut_off(client: Client, running: Running) -> None:
    running.source.ready = None
    running.source.may_answer.clear()
    one = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n".encode()
    client.sock.sendall(one * (protocol.MAX_QUEUED + 2))
    assert client.rest().startswith(b"HTTP/1.1 400 ")
    running.source.may_answer.set()


def test_two_waiting_requests_are_answered(client: Client, running: Running) -> None:
    running.source.ready = None
    running.source.may_answer.clear()
    one = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n".encode()
    client.sock.sendall(one * (protocol.MAX_QUEUED + 1))
    running.source.may_answer.set()
    assert [client.receive().status for _ in range(protocol.MAX_QUEUED + 1)] == [200] * (protocol.MAX_QUEUED + 1)


def test_client_that_never_reads_is_cut_off_or_read_from_no_more(client: Client, running: Running) -> None:
    running.source.ready = b"x" * 60000
    one = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n".encode()
    client.sock.settimeout(0.5)
    try:
        sent = _flood(client, one)
    except TimeoutError:
        sent = 0
    assert sent < 10_000_000
    assert _served(running)


def test_next_request_is_answered_when_the_client_has_read_the_response(client: Client, running: Running) -> None:
    large = b"x" * 8_000_000  # More than the kernel buffers.
    running.source.ready = large
    for _ in range(3):
        client.send("GET", WEB, AUTHORIZED)
    with running.client() as other:
        assert other.ask("GET", WEB).status == 401  # The requests before have been read by now.
    assert running.source.read_count == 1
    assert [client.receive()[::2] for _ in range(3)] == [(200, large)] * 3
    assert running.source.read_count == 3


class ClockedConnections(Connections):
    """Connections whose clock a test sets ahead."""

    LOOK_SECONDS = 0.01
    ahead = 0.0

    def __init__(self, most: int) -> None:
        super().__init__(most, lambda: time.monotonic() + ClockedConnections.ahead)


@pytest.fixture(scope="module")
def clocked() -> Iterator[Running]:
    """A server with such connections."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "Connections", ClockedConnections)
        with run_server() as running:
            assert _served(running)
            patch.undo()
            yield running


def _advance(running: Running, seconds: float) -> None:
    """Set the clock ahead, once the server has read what was sent before."""
    assert _served(running)
    ClockedConnections.ahead += seconds


class TestTimeLimits:
    @pytest.mark.parametrize("data", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r"])
    def test_unfinished_request_is_dropped(self, clocked: Running, data: bytes) -> None:
        with clocked.client() as client:
            client.sock.sendall(data)
            _advance(clocked, 5)
            assert client.rest() == b""

    def test_idle_connection_is_dropped(self, clocked: Running) -> None:
        with clocked.client() as client:
            assert client.ask("GET", WEB, AUTHORIZED).status == 200
            _advance(clocked, 15)
            assert client.ask("GET", WEB, AUTHORIZED).status == 200
            _advance(clocked, 30)
            assert client.rest() == b""

    def test_unfinished_second_request_is_dropped(self, clocked: Running) -> None:
        with clocked.client() as client:
            assert client.ask("GET", WEB, AUTHORIZED).status == 200
            client.sock.sendall(b"GET /")
            _advance(clocked, 5)
            assert client.rest() == b""

    def test_dripped_request_is_dropped(self, clocked: Running) -> None:
        with clocked.client() as client:
            for byte in b"GET /":
                client.sock.sendall(bytes([byte]))
                _advance(clocked, 1)
            assert client.rest() == b""

    @pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02"])
    def test_unfinished_tls_handshake_is_dropped(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes
    ) -> None:
        monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.1)
        with run_server(tls=ServerCA(tmp_path).context("localhost")) as running, running.client() as client:
            client.sock.sendall(data)
            assert client.rest() == b""
        assert running.log == []


@needs_netlink
def test_request_limits_hold_over_tls(tmp_path: Path) -> None:
    ca = ServerCA(tmp_path)
    context = ssl.create_default_context(cafile=ca.path)
    head = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n".encode()
    with run_server(tls=ca.context("localhost")) as running, running.client() as client:
        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
        for _ in range(2):
            client.sock.sendall(head + b"\r\n")
            assert client.receive().status == 200
        client.sock.sendall(head + b"X: " + b"a" * protocol.MAX_BYTES)
        assert client.receive().status == 400
        assert client.rest() == b""
    assert len(running.log) == 1


def test_good_client_is_answered_beside_500_unfinished_requests(running: Running) -> None:
    idle = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(500)]
    try:
        for sock in idle[::2]:
            sock.sendall(b"GET / HT")
        assert all(_served(running) for _ in range(20))
    finally:
        for sock in idle:
            sock.close()


def test_oldest_connection_is_dropped_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "most_connections", lambda: 10)
    with run_server() as running, running.client() as first:
        others = [running.client() for _ in range(9)]
        assert _served(running)
        assert first.rest() == b""
        for client in others:
            client.sock.close()


@needs_netlink
def test_error_in_a_connection_is_logged_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(accounts: Connections, connection: object) -> None:
        raise ValueError("a secret")

    with run_server() as running, running.client() as client:
        assert client.ask("GET", WEB, AUTHORIZED).status == 200
        monkeypatch.setattr(Connections, "receive", fail)
        client.sock.sendall(b"G")
        assert client.rest() == b""
    assert running.log == ["internal error: ValueError in a connection. Please report it"]
    assert capfd.readouterr() == ("", "")


class Accounts(Connections):
    """Connections that note what the protocol says of them."""

    told: ClassVar[list[str]] = []

    def receive(self, connection: connections.Connection) -> None:
        self.told.append("receives")
        super().receive(connection)

    def answer(self, connection: connections.Connection) -> None:
        self.told.append("is answered")
        super().answer(connection)

    def rest(self, connection: connections.Connection) -> None:
        self.told.append("rests")
        super().rest(connection)


def test_time_limit_fits_what_the_connection_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "Connections", Accounts)
    monkeypatch.setattr(credentials, "LOOK_SECONDS", 0.0)
    head = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n"
    with run_server() as running, running.client() as client:
        for source, parts, expected in (
            (READY, [head], ["rests"]),
            (READY, ["G", head[1:]], ["receives", "rests"]),
            (READY, ["G", "E", head[2:]], ["receives", "receives", "rests"]),
            (None, [head], ["is answered", "rests"]),
        ):
            running.source.ready = source
            Accounts.told.clear()
            for number, part in enumerate(parts, 1):
                client.sock.sendall(part.encode())
                while len(Accounts.told) < number:  # The next part is sent when this one has been read.
                    time.sleep(0.001)
            assert client.receive().status == 200
            assert Accounts.told == expected


def test_time_limit_of_an_unfinished_request_begins_when_the_one_before_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "Connections", Accounts)
    head = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n"
    with run_server() as running, running.client() as client:
        running.source.ready = None
        running.source.may_answer.clear()
        Accounts.told.clear()
        for number, part in enumerate([head, "G"], 1):
            client.sock.sendall(part.encode())
            while len(Accounts.told) < number:
                time.sleep(0.001)
        running.source.may_answer.set()
        assert client.receive().status == 200
        client.sock.sendall(head[1:].encode())
        assert client.receive().status == 200
    assert set(Accounts.told[:2]) == {"is answered"}
    assert Accounts.told[2] == "receives"


def test_large_response_is_sent_whole_before_the_connection_is_closed(client: Client, running: Running) -> None:
    running.source.ready = b"x" * 8_000_000  # More than the kernel buffers.
    client.send("GET", WEB, {**AUTHORIZED, "Connection": "close"})
    assert client.rest().endswith(b"\r\n\r\n" + running.source.ready)
    assert running.log == []


def test_upgrade_is_ignored(client: Client) -> None:
    for _ in range(2):
        headers = {**AUTHORIZED, "Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAM"}
        assert client.ask("GET", WEB, headers).status == 200


def test_client_that_leaves_before_its_response_is_no_error(running: Running) -> None:
    running.source.ready = None
    running.source.may_answer.clear()
    with running.client() as client:
        client.send("GET", WEB, AUTHORIZED)
        with running.client() as other:
            assert other.ask("GET", WEB).status == 401  # The request before has been read by now.
    running.source.may_answer.set()
    running.source.ready = READY
    assert all(_served(running) for _ in range(3))
    assert [line for line in running.log if "401" not in line] == []
