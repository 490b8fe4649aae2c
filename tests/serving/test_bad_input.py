"""Requests that are none, or too much: refused, bounded, and no hindrance for others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from hwsigner.serving import connections, protocol, server
from serving.conftest import TOKEN, Running, run_server
from serving.raw import Client
from serving.test_endpoints import AUTHORIZED, READY, SECONDS, WEB


def _served(running: Running) -> bool:
    """Tell whether a well-behaved caller is answered."""
    with running.client() as client:
        return client.ask("GET", WEB, AUTHORIZED).status == 200


def _flood(client: Client, data: bytes, most: int = 100_000_000) -> int:
    """Send until the server ends the connection, and return how many bytes that took."""
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
def test_a_flood_is_cut_off(client: Client, running: Running, beginning: bytes, more: bytes) -> None:
    client.sock.sendall(beginning)
    # What the kernel buffers at both ends is the rest.
    assert _flood(client, more) < 10_000_000
    assert _served(running)
    assert len(running.log) == 1
    assert "400" in running.log[0]


def test_a_head_of_the_greatest_length_is_read(client: Client) -> None:
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
def test_what_is_no_request_is_refused(client: Client, running: Running, request_: bytes) -> None:
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
def test_headers_that_can_t_be_meant(client: Client, headers: dict[str, str], reason: str) -> None:
    client.send("GET", WEB, {**AUTHORIZED, **headers})
    answer = client.rest()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
    assert reason.encode() in answer


def test_http_1_0_is_answered_and_the_connection_ended(client: Client) -> None:
    client.send("GET", WEB, AUTHORIZED, version="1.0")
    answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer
    assert answer.endswith(READY)


@pytest.mark.parametrize(("count", "status"), [(protocol.MAX_HEADERS, 200), (protocol.MAX_HEADERS + 1, 400)])
def test_many_headers(client: Client, count: int, status: int) -> None:
    others = {f"x{number}": "y" for number in range(count - 3)}  # Beside Host, Authorization and Connection.
    client.send("GET", WEB, {**AUTHORIZED, **others, "Connection": "close"})
    assert client.rest().startswith(f"HTTP/1.1 {status} ".encode())


def test_a_chunked_put_gets_no_token(client: Client) -> None:
    client.send("PUT", "/latest/api/token", {SECONDS: "60", "Transfer-Encoding": "chunked"})
    client.sock.sendall(b"0\r\n\r\n")
    assert client.rest().startswith(b"HTTP/1.1 400 ")


def test_who_expects_100_gets_an_answer(client: Client) -> None:
    client.send("PUT", "/latest/api/token", {SECONDS: "60", "Expect": "100-continue", "Content-Length": "4"})
    assert client.rest().startswith(b"HTTP/1.1 400 ")


def test_requests_sent_ahead_are_answered_in_their_order(client: Client) -> None:
    for path in (WEB, WEB, "/nothing"):
        client.send("GET", path, AUTHORIZED)
    assert [client.receive().status for _ in range(3)] == [200, 200, 404]


def test_too_many_requests_sent_ahead_are_cut_off(client: Client, running: Running) -> None:
    running.source.ready = None
    running.source.may_answer.clear()
    one = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n".encode()
    client.sock.sendall(one * (protocol.MAX_QUEUED + 2))
    assert client.rest().startswith(b"HTTP/1.1 400 ")
    running.source.may_answer.set()


def test_as_many_as_may_wait_are_answered(client: Client, running: Running) -> None:
    running.source.ready = None
    running.source.may_answer.clear()
    one = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n".encode()
    client.sock.sendall(one * (protocol.MAX_QUEUED + 1))
    running.source.may_answer.set()
    assert [client.receive().status for _ in range(protocol.MAX_QUEUED + 1)] == [200] * (protocol.MAX_QUEUED + 1)


def test_who_never_reads_its_answers_is_cut_off_or_held_up(client: Client, running: Running) -> None:
    running.source.ready = b"x" * 60000
    one = f"GET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n".encode()
    client.sock.settimeout(0.5)
    try:
        sent = _flood(client, one)
    except TimeoutError:
        sent = 0
    assert sent < 10_000_000
    assert _served(running)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Running]:
    """A server of little patience."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_SECONDS", 0.1)
        patch.setattr(server, "IDLE_SECONDS", 0.2)
        with run_server() as found:
            yield found


class TestTime:
    @pytest.mark.parametrize("data", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r"])
    def test_a_half_open_connection_is_ended(self, hasty: Running, data: bytes) -> None:
        with hasty.client() as client:
            client.sock.sendall(data)
            assert client.rest() == b""
        assert _served(hasty)

    def test_an_idle_one_is_ended(self, hasty: Running) -> None:
        with hasty.client() as client:
            assert client.ask("GET", WEB, AUTHORIZED).status == 200
            assert client.rest() == b""

    def test_a_second_request_that_drips_is_ended(self, hasty: Running) -> None:
        with hasty.client() as client:
            assert client.ask("GET", WEB, AUTHORIZED).status == 200
            client.sock.sendall(b"GET /")
            assert client.rest() == b""

    def test_who_drips_bytes_is_ended(self, hasty: Running) -> None:
        with hasty.client() as client:
            client.sock.settimeout(0.01)
            ended = False
            for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10000:
                try:
                    client.sock.sendall(bytes([byte]))
                    ended = client.sock.recv(1) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended = True
                if ended:
                    break
            assert ended


def test_many_half_open_connections_hold_up_nobody(running: Running) -> None:
    idle = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(500)]
    try:
        for sock in idle[::2]:
            sock.sendall(b"GET / HT")
        assert all(_served(running) for _ in range(20))
    finally:
        for sock in idle:
            sock.close()


def test_of_too_many_connections_the_oldest_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "most_connections", lambda: 10)
    with run_server() as running, running.client() as first:
        others = [running.client() for _ in range(9)]
        assert _served(running)
        assert first.rest() == b""
        for client in others:
            client.sock.close()


def test_an_error_in_a_connection_is_told_of_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(accounts: connections.Connections, connection: object) -> None:
        raise ValueError("a secret")

    with run_server() as running, running.client() as client:
        assert client.ask("GET", WEB, AUTHORIZED).status == 200
        monkeypatch.setattr(connections.Connections, "expect", fail)
        client.sock.sendall(b"G")
        assert client.rest() == b""
    assert running.log == ["internal error: ValueError in a connection. Please report it"]
    assert capfd.readouterr() == ("", "")


def test_who_has_sent_whole_requests_owes_none(
    client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.ask("GET", WEB, AUTHORIZED).status == 200
    told: list[str] = []
    for name in ("expect", "settle"):
        real = getattr(connections.Connections, name)

        def note(accounts: object, connection: protocol.BoundedProtocol, name: str = name, real: Any = real) -> None:
            if connection.client == client.sock.getsockname():
                told.append(name)
            real(accounts, connection)

        monkeypatch.setattr(connections.Connections, name, note)
    for _ in range(3):
        assert client.ask("GET", WEB, AUTHORIZED).status == 200
    assert not told
    for part in ("G", f"ET {WEB} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {TOKEN.decode()}\r\n\r\n"):
        client.sock.sendall(part.encode())
        assert _served(running)  # The part has been read by now.
    assert client.receive().status == 200
    assert told == ["expect", "settle"]
