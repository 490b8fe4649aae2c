"""The registrar over HTTP, with its own client and with hostile ones: oversize, slow, flooding."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import certs
from attestation.piv_chains import Chain, answered
from enrolment.registrar.sites import SERIAL, Site, body, request, statement, url, yubikey
from hwsigner import attestation
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.attestation import chain as chain_module
from hwsigner.enrolment.issuers import Issued, IssuerSettings, Pending, open_issuer
from hwsigner.enrolment.registrar import server as server_module
from hwsigner.enrolment.registrar.limits import RateLimit
from hwsigner.enrolment.registrar.sealing import rotate_keys
from hwsigner.enrolment.registrar.server import RegistrarServer
from hwsigner.enrolment.registrar_messages import CERTIFICATE_PATH, CHALLENGE_PATH, MAX_BODY_BYTES
from hwsigner.errors import CertificateError, ServiceError, ServiceUnreachableError
from hwsigner.key.management import KeyAccess
from loopback import Server, ServerCA, answering

pytestmark = pytest.mark.slow

KEY = KeyAccess(KeyURI.of("pkcs11:token=YubiKey;id=%01"), PinSource())


@pytest.fixture
def asked(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> CertificateRequest:
    """The YubiKey's request. Its statements and answers are made here, without the hardware."""
    monkeypatch.setattr(attestation, "make_statement", lambda uri, pin, *, csr, **_: statement(chain, csr))
    monkeypatch.setattr(
        attestation, "answer_challenge", lambda uri, challenge, pin, **_: answered(challenge, chain.slot.key)
    )
    return CertificateRequest(request(chain.slot.key))


def issued(server_url: str, asked: CertificateRequest, ca_file: str = "") -> Issued | Pending:
    return open_issuer("registrar", IssuerSettings(url=server_url, ca_file=ca_file, key=KEY)).issue(asked)


def post(server: RegistrarServer, path: str, data: bytes) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.socket.getsockname()[1], timeout=30)
    connection.request("POST", path, data)
    response = connection.getresponse()
    with response:
        return response.status, json.loads(response.read())


def connect(server: RegistrarServer) -> socket.socket:
    return socket.create_connection(server.socket.getsockname()[:2], timeout=30)


def exchange(server: RegistrarServer, data: bytes) -> bytes:
    """Send bytes and return the response, or nothing if the connection is closed without one."""
    with connect(server) as sock:
        received = b""
        with suppress(ConnectionError):
            sock.sendall(data)
            while part := sock.recv(65536):
                received += part
        return received


# The client


def test_machine_gets_its_certificate(site: Site, asked: CertificateRequest) -> None:
    with site.serving() as server:
        answer = issued(url(server), asked)
    assert isinstance(answer, Issued)
    assert len(answer.certificates) == 2
    assert site.issuer.requests == [asked.der]


def test_machine_gets_its_certificate_over_tls(site: Site, asked: CertificateRequest, tmp_path: Path) -> None:
    ca = ServerCA(tmp_path)
    with site.serving(tls=ca.context("127.0.0.1")) as server:
        assert isinstance(issued(url(server, "https"), asked, str(ca.path)), Issued)


def test_machine_sends_nothing_to_a_registrar_with_another_certificate(
    site: Site, asked: CertificateRequest, tmp_path: Path
) -> None:
    ca, other = ServerCA(tmp_path), tmp_path / "other"
    other.mkdir()
    with site.serving(tls=ca.context("127.0.0.1")) as server, pytest.raises(ServiceUnreachableError):
        issued(url(server, "https"), asked, str(ServerCA(other).path))
    assert site.audit == []


def test_machine_that_is_not_allowed_is_told_what_to_do(site: Site, chain: Chain, asked: CertificateRequest) -> None:
    site.allow(yubikey(chain, "1"))
    with site.serving() as server, pytest.raises(ServiceError) as caught:
        issued(url(server), asked)
    assert caught.value.message.startswith("the registrar refused: the registrar's policy does not give this chip")
    assert caught.value.hint == f"Ask the registrar's administrator; the chip is {SERIAL}"
    assert not caught.value.retryable


def test_machine_waits_for_an_issuer_that_is_not_done(site: Site, asked: CertificateRequest) -> None:
    site.issuer.instead = Pending(17)
    with site.serving() as server:
        assert issued(url(server), asked) == Pending(17)


def test_machine_starts_again_if_the_sealing_keys_were_replaced_meanwhile(
    site: Site, chain: Chain, asked: CertificateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def answer(uri: object, challenge: attestation.Document, pin: object, **others: object) -> attestation.Document:
        nonlocal calls
        calls += 1
        if calls == 1:
            for _ in range(2):
                rotate_keys(str(site.keys))
        return answered(challenge, chain.slot.key)

    monkeypatch.setattr(attestation, "answer_challenge", answer)
    with site.serving() as server:
        assert isinstance(issued(url(server), asked), Issued)
    assert site.decisions == ["challenged", "refused", "challenged", "proven", "issued"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"x", b'{"challenge": {}, "state": "eA=="}', b'{"error": 1, "hint": 2}', b"[" * 50_000],
)
def test_answer_that_is_not_a_registrars_is_one_error(body: bytes, asked: CertificateRequest) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    with Server(answering(head + body)) as server, pytest.raises(CertificateError, match="answer can't be read"):
        issued(f"http://127.0.0.1:{server.port}", asked)


def test_refusal_is_one_short_line_whatever_the_registrar_says(asked: CertificateRequest) -> None:
    body = json.dumps({"error": "no\nhwsigner: all is well. " * 999, "hint": ["Look\n"] * 999}).encode()
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body)
    with Server(answering(head + body)) as server, pytest.raises(ServiceError) as caught:
        issued(f"http://127.0.0.1:{server.port}", asked)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


# Two registrars behind one address


def test_two_registrars_share_the_files_and_nothing_else(site: Site, chain: Chain, ca: certs.Authority) -> None:
    other = Site(site.folder, site.trust, site.issuer)
    with site.serving() as one, other.serving() as two:
        given = statement(chain)
        for first, second in ((one, two), (two, one)):
            status, reply = post(first, CHALLENGE_PATH, body(statement=given))
            assert status == 200
            rotate_keys(str(site.keys))  # In the middle.
            challenge = attestation.read(json.dumps(reply["challenge"]).encode(), "challenge")
            answer = answered(challenge, chain.slot.key)
            status, _ = post(second, CERTIFICATE_PATH, body(statement=given, state=reply["state"], answer=answer))
            assert status == 200


# Hostile clients


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 404),
        (b"POST /v1/challenge HTTP/1.1\r\n\r\n", 411),
        (b"POST /v1/challenge HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /v1/challenge HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 411),
        (b"POST /v1/challenge HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 411),
        (b"POST /v1/challenge HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
        (b"POST /v1/challenge HTTP/1.1\r\nContent-Length: 999999999999999999999\r\n\r\n", 411),
        (b"POST /v1/challenge HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST /v1/challenge HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"nonsense\r\n\r\n", 400),
        (b"POST " + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"POST /v1/challenge HTTP/9.9\r\n\r\n", 505),
    ],
)
def test_request_that_is_not_in_order_is_refused_in_json(data: bytes, status: int, site: Site) -> None:
    with site.serving() as server:
        head, _, answer = exchange(server, data).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(answer).keys() == {"error", "hint"}
    assert b"Python" not in head
    assert site.issuer.requests == []
    assert site.decisions == ["refused"]
    assert site.audit[-1]["client"] == "127.0.0.1"
    assert site.audit[-1]["reason"] == json.loads(answer)["error"][:500]


def test_flood_of_requests_that_are_not_in_order_does_not_flood_the_log(site: Site) -> None:
    with site.serving(limit=RateLimit(3, 10**6, lambda: 0.0)) as server:
        for _ in range(10):
            assert exchange(server, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 501")
    assert site.decisions == ["refused"] * 3 + ["limited"]


def test_request_without_an_end_is_cut_off(site: Site) -> None:
    lines = b"a: " + b"b" * 60_000 + b"\r\n"  # Neither too long nor too many.
    with site.serving() as server:
        assert exchange(server, b"POST /v1/challenge HTTP/1.1\r\n" + lines * 90) == b""
    assert site.decisions == ["refused"]


@pytest.mark.parametrize("has_tls", [False, True])
@pytest.mark.parametrize("data", [b"", b"P", b"POST /v1/challenge HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"])
def test_slow_client_does_not_delay_others_and_is_cut_off(
    data: bytes, has_tls: bool, site: Site, asked: CertificateRequest, tmp_path: Path
) -> None:
    ca = ServerCA(tmp_path)
    with site.serving(tls=ca.context("127.0.0.1") if has_tls else None) as server, connect(server) as slow:
        slow.sendall(data)
        quick = issued(url(server, "https" if has_tls else "http"), asked, str(ca.path) if has_tls else "")
        assert isinstance(quick, Issued)
        for one in list(server._connections.values()):
            one.end = 0.0
        with suppress(ConnectionError):
            assert slow.recv(1) == b""
        _wait_until(lambda: not server._connections)


def _wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_flood_of_connections_of_one_address_leaves_room_for_others(site: Site) -> None:
    with site.serving() as server:
        flood = [connect(server) for _ in range(100)]
        _wait_until(lambda: "limited" in site.decisions)
        assert len(server._connections) <= server_module.CONNECTIONS_OF_ADDRESS + 1
        assert site.audit[-1]["reason"] == "too many open connections, 17 of them from 127.0.0.1"
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            other.settimeout(30)
            other.connect(server.socket.getsockname()[:2])
            other.sendall(b"POST /v1/challenge HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
            assert other.recv(100).startswith(b"HTTP/1.1 400")
        for sock in flood:
            sock.close()
    assert site.decisions.count("limited") == 1


def test_load_balancer_may_have_more_connections(site: Site) -> None:
    with site.serving() as server, ExitStack() as stack:
        server.connections_of_address = server_module.MAX_CONNECTIONS
        for _ in range(server_module.MAX_CONNECTIONS):
            stack.enter_context(connect(server))
        _wait_until(lambda: len(server._connections) == server_module.MAX_CONNECTIONS)
    assert site.audit == []


def test_slow_clients_of_many_addresses_make_room_for_others(site: Site, asked: CertificateRequest) -> None:
    with site.serving() as server, ExitStack() as stack:
        target = server.socket.getsockname()[:2]
        for number in range(server_module.MAX_CONNECTIONS + 8):
            source = (f"127.0.0.{10 + number // server_module.CONNECTIONS_OF_ADDRESS}", 0)
            stack.enter_context(socket.create_connection(target, 30, source))
        assert isinstance(issued(url(server), asked), Issued)
    assert "limited" in site.decisions


def _peers(server: RegistrarServer) -> set[object]:
    """Return the addresses of the clients whose connections are open."""
    found = set()
    for one in list(server._connections.values()):
        with suppress(OSError):  # It was shut.
            found.add(one.sock.getpeername())
    return found


@pytest.mark.parametrize("addresses", [5, 20, 60])
def test_idle_connections_of_many_addresses_do_not_shut_one_that_waits(
    addresses: int, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "RECEIVE_SECONDS", 300.0)  # On a busy machine, they would end by themselves.
    with site.serving() as server, ExitStack() as stack:
        target = server.socket.getsockname()[:2]

        def idle(count: int) -> None:
            """Open connections that send nothing, of each address in turn, and wait until the server has all."""
            for number in range(count):
                stack.enter_context(socket.create_connection(target, 30, (f"127.0.2.{1 + number % addresses}", 0)))
            last = stack.enter_context(socket.create_connection(target, 30, ("127.0.2.1", 0))).getsockname()
            _wait_until(lambda: last in _peers(server))

        idle(server_module.MAX_CONNECTIONS)
        waiting = stack.enter_context(socket.create_connection(target, 30, ("127.0.1.1", 0)))
        idle(4 * server_module.MAX_CONNECTIONS)
        waiting.sendall(b"POST /v1/challenge HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
        assert waiting.recv(100).startswith(b"HTTP/1.1 400")


def _asking(server: RegistrarServer, address: str, data: bytes) -> socket.socket:
    """Send a request for a challenge from an address; return when the server has it."""
    sock = socket.create_connection(server.socket.getsockname()[:2], 30, (address, 0))
    sock.sendall(b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (CHALLENGE_PATH.encode(), len(data)) + data)
    own = sock.getsockname()
    _wait_until(
        lambda: any(one.has_request for one in list(server._connections.values()) if one.sock.getpeername() == own)
    )
    return sock


def test_request_is_in_the_log_before_it_is_worked_on(site: Site) -> None:
    with site.serving() as server:
        with server.working:
            _asking(server, "127.0.0.2", b"{}").close()
            _wait_until(lambda: bool(site.audit))
            assert site.audit == [{"client": "127.0.0.2", "decision": "received", "path": CHALLENGE_PATH}]
        _wait_until(lambda: not server._connections)


def test_request_is_not_worked_on_when_its_client_has_left(site: Site) -> None:
    with site.serving() as server:
        with server.working:
            _asking(server, "127.0.0.2", b"{}").close()
            staying = _asking(server, "127.0.0.2", b"{}")
        assert staying.recv(100).startswith(b"HTTP/1.1 400")
        staying.close()
        _wait_until(lambda: not server._connections)
    assert site.decisions == ["refused"]


def test_work_on_a_request_ends_when_its_client_leaves(
    site: Site, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, may_go_on = threading.Event(), threading.Event()
    verifies, checks = chain_module.verifies, []

    def slowly(*arguments: Any) -> bool:
        checks.append(arguments)
        has_begun.set()
        assert may_go_on.wait(30)
        return verifies(*arguments)

    monkeypatch.setattr(chain_module, "verifies", slowly)
    with site.serving() as server:
        client = _asking(server, "127.0.0.2", body(statement=statement(chain)))
        assert has_begun.wait(30)
        client.close()
        may_go_on.set()
        _wait_until(lambda: not server._connections)
    assert len(checks) == 1  # Else there are several.
    assert site.audit[-1] == {"client": "127.0.0.2", "decision": "refused", "reason": "the client has left"}


def test_flood_of_requests_from_a_few_addresses_lets_others_go_ahead(site: Site, chain: Chain) -> None:
    """The flood takes all connections before the first request is worked on."""
    with site.serving() as server, ExitStack() as stack:
        with server.working:
            for number in range(server_module.MAX_CONNECTIONS):
                stack.enter_context(_asking(server, f"127.0.0.{10 + number % 4}", b"{}"))
            other = stack.enter_context(_asking(server, "127.0.0.2", body(statement=statement(chain))))
        assert other.recv(100).startswith(b"HTTP/1.1 200")
        before = site.decisions.index("challenged")
        _wait_until(lambda: not server._connections)
    assert before < server_module.MAX_CONNECTIONS / 2
    assert site.decisions.count("refused") == server_module.MAX_CONNECTIONS - 1  # One made room.
    assert "16 of them from 127.0.0.1" in next(str(one["reason"]) for one in site.audit if one["decision"] == "limited")


def test_flood_of_requests_is_answered_with_when_to_retry(site: Site, asked: CertificateRequest) -> None:
    with site.serving(limit=RateLimit(4, 10**6, lambda: 0.0)) as server:
        for _ in range(2):
            assert isinstance(issued(url(server), asked), Issued)
        with pytest.raises(ServiceError, match="too many requests") as caught:
            issued(url(server), asked)
    assert (caught.value.retryable, caught.value.retry_after) == (True, 15.0)
    assert site.decisions[-1] == "limited"


def test_clients_that_leave_or_speak_no_tls_are_no_failures(site: Site, tmp_path: Path) -> None:
    with site.serving(tls=ServerCA(tmp_path).context("127.0.0.1")) as server:
        exchange(server, b"POST / HTTP/1.1\r\n\r\n")
        connect(server).close()
        _wait_until(lambda: not server._connections)
    assert site.audit == []


@dataclass
class _Broken:
    """A registrar with a fault of its own."""

    def challenge(self, body: bytes, client: str, turn: object) -> dict[str, Any]:
        raise KeyError("secret")


def test_server_outlives_a_thread_that_can_not_start_and_a_log_that_is_full(
    site: Site, asked: CertificateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> None:
        raise error

    with site.serving() as server:
        with monkeypatch.context() as patched:
            patched.setattr(server, "process_request", lambda *_: fail(RuntimeError("can't start new thread")))
            patched.setattr(server, "audit", lambda _: fail(OSError(errno.ENOSPC, "full")))
            assert exchange(server, b"") == b""
        assert isinstance(issued(url(server), asked), Issued)


def test_fault_of_our_own_shows_its_class_alone(site: Site) -> None:
    with site.serving(registrar=_Broken()) as server:  # type: ignore[arg-type]
        status, reply = post(server, CHALLENGE_PATH, b"{}")
    assert (status, reply["error"]) == (500, "the registrar failed")
    assert site.audit[-1] == {"client": "127.0.0.1", "decision": "failed", "reason": "internal error: KeyError"}


def test_stopped_server_finishes_the_answer_that_is_due(site: Site, chain: Chain, asked: CertificateRequest) -> None:
    registrar, has_begun, may_end = site.registrar(), threading.Event(), threading.Event()
    issue = site.issuer.issue

    def slowly(request: CertificateRequest) -> Issued | Pending:
        has_begun.set()
        assert may_end.wait(30)
        return issue(request)

    site.issuer.issue = slowly  # type: ignore[method-assign]
    found: list[object] = []
    with site.serving(registrar=registrar) as server:
        client = threading.Thread(target=lambda: found.append(issued(url(server), asked)))
        client.start()
        assert has_begun.wait(30)
        stop = threading.Thread(target=server.shutdown)
        stop.start()
        stop.join(30)
        may_end.set()
        client.join(30)
    assert isinstance(found[0], Issued)
