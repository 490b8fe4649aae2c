"""The emulator as a server: TLS, connections, malformed HTTP, start and stop, and its imports."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time

import pytest

from certs import Authority
from emulator.client import Caller, Request, connect, draft, read_reply, send
from hwsigner.emulator import Emulator, Record, World, server
from hwsigner.errors import HwsignerError, UsageError


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "roles.example"])
def test_tls_certificate_is_trusted_for_its_names(ca: Authority, caller: Caller, name: str) -> None:
    with Emulator(World.simple(ca.pem), tls=True, host_names=["roles.example"]) as emulator:
        assert emulator.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=emulator.ca_file)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        with connect(emulator) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
            connection.sendall(draft(emulator, caller).signed().to_bytes())
            assert read_reply(connection).status == 201


def test_openssl_verifies_the_tls_certificate(ca: Authority) -> None:
    with Emulator(World.simple(ca.pem), tls=True) as emulator:
        address = emulator.url.removeprefix("https://")
        command = ["openssl", "s_client", "-connect", address, "-CAfile", str(emulator.ca_file), "-verify_return_error"]
        command += ["-verify_ip", "127.0.0.1", "-x509_strict"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    assert "Verify return code: 0 (ok)" in done.stdout


def test_tls_fails_for_another_ca_or_name(ca: Authority) -> None:
    with Emulator(World.simple(ca.pem), tls=True) as emulator:
        for cafile, name in ((None, "localhost"), (emulator.ca_file, "elsewhere.example")):
            context = ssl.create_default_context(cafile=cafile)
            with connect(emulator) as plain, pytest.raises(ssl.SSLCertVerificationError):
                context.wrap_socket(plain, server_hostname=name)


def test_other_clients_are_served_while_one_never_completes_its_handshake(ca: Authority, caller: Caller) -> None:
    with Emulator(World.simple(ca.pem), tls=True) as emulator, connect(emulator):
        context = ssl.create_default_context(cafile=emulator.ca_file)
        with connect(emulator) as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(draft(emulator, caller).signed().to_bytes())
            assert read_reply(connection).status == 201


def test_response_does_not_wait_for_an_acknowledgement(emulator: Emulator, caller: Caller) -> None:
    with connect(emulator) as connection:
        connection.sendall(draft(emulator, caller).signed().to_bytes())
        assert read_reply(connection).status == 201
        assert emulator._listener
        [served] = [
            each for each in emulator._listener._open.values() if each.getpeername() == connection.getsockname()
        ]
        assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connection_carries_several_requests_also_pipelined(emulator: Emulator, caller: Caller) -> None:
    text = draft(emulator, caller).signed().to_bytes()
    with connect(emulator) as connection:
        connection.sendall(text + text)
        stream = connection.makefile("rb")
        for _ in range(2):
            assert stream.readline() == b"HTTP/1.1 201 Created\r\n"
            headers = dict(line.split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
            stream.read(int(headers[b"Content-Length"]))
        stream.close()
    assert len(emulator.requests) == 2


def test_connection_ends_when_the_client_asks(emulator: Emulator, caller: Caller) -> None:
    with connect(emulator) as connection:
        connection.sendall(draft(emulator, caller, extra=(("Connection", "close"),)).signed().to_bytes())
        assert read_reply(connection).headers["connection"] == "close"
        assert connection.recv(1) == b""


def test_client_that_expects_100_continue_gets_it(emulator: Emulator, caller: Caller) -> None:
    made = draft(emulator, caller, unsigned=frozenset({"expect"}), extra=(("Expect", "100-continue"),)).signed()
    head, _, body = made.to_bytes().partition(b"\r\n\r\n")
    with connect(emulator) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_reply(connection).status == 201


CHUNKED = b"Transfer-Encoding: chunked\r\n"
MALFORMED = {
    "no request line": (b"hello\r\n\r\n", 400),
    "HTTP/1.0": (b"POST / HTTP/1.0\r\n\r\n", 400),
    "a bare line feed": (b"POST / HTTP/1.1\n\n", 400),
    "a space in the target": (b"POST /a b HTTP/1.1\r\n\r\n", 400),
    "a folded header": (b"POST / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
    "a space before the colon": (b"POST / HTTP/1.1\r\nA : b\r\n\r\n", 400),
    "a control character": (b"POST / HTTP/1.1\r\nA: \x01\r\n\r\n", 400),
    "too many headers": (b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    "a line too long": (b"POST / HTTP/1.1\r\nA: " + b"b" * 65536 + b"\r\n\r\n", 431),
    "another transfer coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "two transfer codings": (b"POST / HTTP/1.1\r\n" + CHUNKED + CHUNKED + b"\r\n", 501),
    "chunks and a length": (b"POST / HTTP/1.1\r\n" + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "a chunk without a size": (b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\nx\r\n", 400),
    "a negative chunk": (b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\n-1\r\n", 400),
    "a chunk longer than its size": (b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\n1\r\nab\r\n0\r\n\r\n", 400),
    "a chunk too large": (b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\n100001\r\n", 413),
    "chunks too large": (b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\n1\r\na\r\n100000\r\n", 413),
    "a length that is none": (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),
    "a body too large": (b"POST / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_invalid_http_is_refused(emulator: Emulator, case: str) -> None:
    text, status = MALFORMED[case]
    reply = send(emulator, text)
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (status, "SerializationException")
    assert emulator.requests == []


CUT = [
    b"POST / HTTP/1.1",
    b"POST / HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\nA: b",
    b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
    b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\n9\r\nabc",
    b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\n3\r\nabc\r\n",
    b"POST / HTTP/1.1\r\n" + CHUNKED + b"\r\n3\r\nabc\r\n0\r\n",
]


@pytest.mark.parametrize("text", CUT)
def test_truncated_request_is_refused(emulator: Emulator, text: bytes) -> None:
    with connect(emulator) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        reply = read_reply(connection)
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (400, "SerializationException")


def test_client_that_sends_nothing_gets_nothing(emulator: Emulator) -> None:
    with connect(emulator) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_request_without_a_length_has_no_body(emulator: Emulator) -> None:
    assert send(emulator, b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n").status == 404
    assert emulator.requests[0].body == b""


def test_chunked_body_is_read(emulator: Emulator) -> None:
    chunks = b"3\r\nabc\r\n00a;x=y\r\n0123456789\r\n0\r\nX-Trailer: z\r\n\r\n"
    with connect(emulator) as connection:
        connection.sendall(b"POST /other HTTP/1.1\r\n" + CHUNKED + b"\r\n" + chunks)
        connection.sendall(b"GET /next HTTP/1.1\r\nConnection: close\r\n\r\n")
        while connection.recv(4096):
            pass
    assert [(each.target, each.body) for each in emulator.requests] == [("/other", b"abc0123456789"), ("/next", b"")]


def test_record_keeps_the_request_as_sent(emulator: Emulator) -> None:
    heard: list[Record] = []
    emulator.on_record = heard.append
    headers = (("Host", "x"), ("x-A", "1  2"), ("X-a", "\xe9"))
    reply = send(emulator, Request("POST", "//a/../b?c=%2f&d", headers, b"\x00\xff"))
    record = emulator.requests[0]
    assert (record.method, record.target, record.body) == ("POST", "//a/../b?c=%2f&d", b"\x00\xff")
    assert record.headers[:3] == headers
    assert (record.status, record.request_id) == (404, reply.headers["x-amzn-requestid"])
    assert heard == [record]


def test_stopping_ends_idle_and_half_sent_connections(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_JOIN_SECONDS", 60)  # The threads end, or the test fails by its time limit.
    before = set(threading.enumerate())
    emulator = Emulator(World.simple(ca.pem), tls=True)
    emulator.start()
    folder = emulator.ca_file and emulator.ca_file.parent
    with connect(emulator) as idle, connect(emulator) as half:
        half.sendall(b"\x16\x03")
        time.sleep(0.05)
        emulator.stop()
        assert idle.recv(1) == b""
    assert set(threading.enumerate()) <= before
    assert folder is not None
    assert not folder.exists()
    emulator.stop()


def test_emulator_can_be_started_again(ca: Authority, caller: Caller) -> None:
    emulator = Emulator(World.simple(ca.pem))
    for _ in range(2):
        with emulator:
            assert send(emulator, draft(emulator, caller).signed()).status == 201
    with pytest.raises(HwsignerError, match="is not running"):
        _ = emulator.url


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_any_loopback_address_is_accepted(ca: Authority, caller: Caller, host: str) -> None:
    with Emulator(World.simple(ca.pem), address=(host, 0)) as emulator:
        assert send(emulator, draft(emulator, caller).signed()).status == 201


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_other_addresses_are_refused(ca: Authority, host: str) -> None:
    with pytest.raises(UsageError, match="not a loopback address"):
        Emulator(World.simple(ca.pem), address=(host, 0))


def test_port_is_named_when_it_is_in_use(emulator: Emulator, ca: Authority) -> None:
    port = int(emulator.url.rpartition(":")[2])
    with pytest.raises(HwsignerError, match=f"port {port}: Address already in use\\. Choose another port$"):
        Emulator(World.simple(ca.pem), tls=True, address=("127.0.0.1", port)).start()
