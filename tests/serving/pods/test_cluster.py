"""The API server's client: what rotates, what is verified, and what a broken server can't do."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.pki import make_cluster_ca
from hwsigner._serving.pods import cluster
from hwsigner._serving.pods.cluster import Cluster
from hwsigner._serving.pods.refusals import VerifierRefusal
from hwsigner._serving.responses import HTTPRefusal
from hwsigner.errors import HwsignerError
from serving.pods.api_server import RSA_ISSUER, ApiServer, Exchange, answer_well, api_server, failure
from serving.pods.verifying import Pods

JWKS = ("GET", "/openid/v1/jwks", "*/*")


def ask(client: Cluster) -> int:
    try:
        return client.request(*JWKS).status
    finally:
        client.close()


def detail(client: Cluster) -> str:
    """Return what the log gets of a request that fails."""
    with pytest.raises(VerifierRefusal) as error:
        ask(client)
    assert error.value.status == 503
    return error.value.detail


def client_of(api: ApiServer, **changes: str) -> Cluster:
    return Cluster({**api.environ, **changes}, lambda error: None, folder=str(api.folder))


def replace(path: Path, data: bytes) -> None:
    """Replace a file, as the kubelet does. In tests two may fall in one tick of the file system's clock."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.utime(new, ns=(time.time_ns(), time.time_ns()))
    new.replace(path)


def test_one_connection_is_kept_for_all_reviews(pods: Pods, api: ApiServer) -> None:
    assert [pods.status(RSA_ISSUER.token()) for _ in range(5)] == [200] * 5
    assert (len(api.reviews), api.connections) == (5, 1)


def test_own_token_is_read_again_when_it_rotates(pods: Pods, api: ApiServer) -> None:
    assert pods.status(RSA_ISSUER.token()) == 200
    replace(api.folder / "token", b"own.token.second\n")
    assert pods.status(RSA_ISSUER.token()) == 200
    assert [headers["Authorization"] for _, _, headers, _ in api.requests] == [
        "Bearer own.token.first",
        "Bearer own.token.second",
    ]


def test_own_token_that_becomes_bad_is_reported_and_the_old_one_stays(pods: Pods, api: ApiServer) -> None:
    replace(api.folder / "token", b"two words")
    api.answer = lambda exchange: exchange.give(401, failure(401, "Unauthorized", "Unauthorized"))
    assert pods.status(RSA_ISSUER.token()) == 503
    assert api.requests[0][2]["Authorization"] == "Bearer own.token.first"
    assert "does not contain a token. Mount a token for the API server there" in pods.log[0]


def test_ca_is_read_again_when_it_rotates(pods: Pods, api: ApiServer, tmp_path: Path) -> None:
    assert pods.status(RSA_ISSUER.token()) == 200
    replace(api.folder / "ca.crt", make_cluster_ca().pem)
    assert pods.status(RSA_ISSUER.token()) == 503
    assert "is not trusted" in pods.log[0]
    assert len(api.requests) == 1  # The kept connection is of a server that is not trusted any more.


def test_certificate_of_another_ca_is_refused(api: ApiServer) -> None:
    (api.folder / "ca.crt").write_bytes(make_cluster_ca().pem)
    assert "is not trusted" in detail(client_of(api))
    assert api.requests == []


@pytest.mark.parametrize("host", ["10.96.0.1", "kubernetes.default.svc"])
@pytest.mark.parametrize("is_strict", [True, False])
def test_certificate_for_another_name_is_refused(tmp_path: Path, host: str, is_strict: bool) -> None:
    with api_server(tmp_path / "account", host=host) as api:
        client = Cluster(api.environ, lambda error: None, folder=str(api.folder), allow_incomplete_ca=not is_strict)
        assert "127.0.0.1" in detail(client)
        assert api.requests == []


@pytest.mark.parametrize(("has_usage", "has_identifier"), [(False, True), (True, False), (False, False)])
def test_incomplete_ca_is_refused_with_the_name_of_the_setting_that_takes_it(
    tmp_path: Path, has_usage: bool, has_identifier: bool
) -> None:
    ca = make_cluster_ca(has_key_usage=has_usage, has_identifier=has_identifier)
    with api_server(tmp_path / "account", ca) as api:
        assert "Set allow-incomplete-ca = true" in detail(client_of(api))
        lenient = Cluster(api.environ, lambda error: None, folder=str(api.folder), allow_incomplete_ca=True)
        assert ask(lenient) == 200


def test_setting_for_incomplete_cas_takes_no_foreign_ca(api: ApiServer) -> None:
    (api.folder / "ca.crt").write_bytes(make_cluster_ca(has_key_usage=False).pem)
    lenient = Cluster(api.environ, lambda error: None, folder=str(api.folder), allow_incomplete_ca=True)
    assert "is not trusted" in detail(lenient)
    assert "allow-incomplete-ca" not in detail(lenient)


def test_proxies_of_the_environment_are_not_used(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = {
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "https_proxy": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
    }
    for name, value in proxy.items():
        monkeypatch.setenv(name, value)
    assert ask(client_of(api, **proxy)) == 200


def test_certificates_of_the_environment_are_not_trusted(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    good = api.folder / "good.crt"
    (api.folder / "ca.crt").rename(good)
    (api.folder / "ca.crt").write_bytes(make_cluster_ca().pem)
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(good))
    assert "is not trusted" in detail(client_of(api))


def test_closed_connection_is_opened_again(pods: Pods, api: ApiServer) -> None:
    def answer(exchange: Exchange) -> None:
        answer_well(exchange)
        exchange.drop()

    api.answer = answer
    assert [pods.status(RSA_ISSUER.token()) for _ in range(3)] == [200] * 3
    assert (len(api.reviews), api.connections) == (3, 3)


def test_server_that_says_that_it_closes_gets_a_new_connection(pods: Pods, api: ApiServer) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.close_connection = True
        exchange.give(200, b"{}", {"Connection": "close"})

    api.answer = answer
    assert [pods.status(RSA_ISSUER.token()) for _ in range(2)] == [503] * 2
    assert api.connections == 2


def test_connection_that_a_panic_drops_is_503_after_two_requests(pods: Pods, api: ApiServer) -> None:
    assert pods.status(RSA_ISSUER.token()) == 200
    api.answer = lambda exchange: exchange.drop()
    assert pods.status(RSA_ISSUER.token()) == 503
    assert len(api.requests) == 3
    assert "closed the connection" in pods.log[0]
    api.answer = answer_well
    assert pods.status(RSA_ISSUER.token()) == 200


def never(exchange: Exchange) -> None:
    """Answer nothing, until the client leaves."""
    exchange.connection.recv(1)


def byte_by_byte(exchange: Exchange) -> None:
    exchange.send_response(201)
    exchange.send_header("Content-Length", "1000000")
    exchange.end_headers()
    for _ in range(400):
        exchange.wfile.write(b" ")
        exchange.wfile.flush()
        time.sleep(0.05)


def endless_headers(exchange: Exchange) -> None:
    while True:
        exchange.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("answer", [never, byte_by_byte, endless_headers])
def test_slow_server_is_given_up_in_time(
    pods: Pods, api: ApiServer, answer: Callable[[Exchange], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS", 0.3)
    api.answer = answer
    begin = time.monotonic()
    assert pods.status(RSA_ISSUER.token()) == 503
    assert 0.25 < time.monotonic() - begin < 5
    assert "0.3 s (the time for the API server)" in pods.log[0]


def endless_chunks(exchange: Exchange) -> None:
    exchange.send_response(201)
    exchange.send_header("Transfer-Encoding", "chunked")
    exchange.end_headers()
    for _ in range(64):
        exchange.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def huge_length(exchange: Exchange) -> None:
    exchange.send_response(201)
    exchange.send_header("Content-Length", str(1 << 40))
    exchange.end_headers()


def endless_body(exchange: Exchange) -> None:
    exchange.send_response(201)
    exchange.end_headers()
    for _ in range(64):
        exchange.wfile.write(b" " * 0x10000)


@pytest.mark.parametrize("answer", [endless_chunks, huge_length, endless_body])
def test_long_body_is_given_up(pods: Pods, api: ApiServer, answer: Callable[[Exchange], None]) -> None:
    api.answer = answer
    assert pods.status(RSA_ISSUER.token()) == 503
    assert "is longer than 1048576 bytes" in pods.log[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(pods: Pods, api: ApiServer, status: int) -> None:
    api.answer = lambda exchange: exchange.give(status, b"", {"Location": "/elsewhere"})
    assert pods.status(RSA_ISSUER.token()) == 503
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("status", "message", "text"),
    [
        (401, "Unauthorized", "refuses the token of hwsigner serve itself (401: Unauthorized)"),
        (403, 'User "x" cannot create resource "tokenreviews"', "to the ClusterRole system:auth-delegator (403: User"),
    ],
)
def test_refusal_of_own_token_is_503_and_logged_once(
    pods: Pods, api: ApiServer, status: int, message: str, text: str
) -> None:
    api.answer = lambda exchange: exchange.give(status, failure(status, "x", message))
    for number in range(5):
        answer = pods.get(RSA_ISSUER.token(), f"10.0.0.{number}")
        assert isinstance(answer, HTTPRefusal)
        assert answer.status == 503
        assert message not in answer.reason
    [line] = pods.log
    assert text in line


def test_denied_keys_name_the_role_for_them(api: ApiServer) -> None:
    api.answer = lambda exchange: exchange.give(403, failure(403, "Forbidden", "no"))
    assert "system:service-account-issuer-discovery" in detail(client_of(api))


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("0", 1), ("", 1), ("soon", 1), ("86400", 30)])
def test_server_that_asks_to_wait_is_left_alone(pods: Pods, api: ApiServer, value: str, seconds: int) -> None:
    api.answer = lambda exchange: exchange.give(429, b"", {"Retry-After": value})
    for _ in range(3):
        answer = pods.get(RSA_ISSUER.token())
        assert isinstance(answer, HTTPRefusal)
        assert (answer.status, answer.headers) == (503, {b"retry-after": b"%d" % seconds})
    assert len(api.requests) == 1


def test_server_that_is_gone_is_503_and_cached_answers_stay(pods: Pods, api: ApiServer) -> None:
    token = RSA_ISSUER.token()
    assert pods.status(token) == 200
    api.answer = lambda exchange: exchange.drop()
    assert pods.status(token) == 200
    assert pods.status(RSA_ISSUER.token()) == 503


def test_closed_port_is_503(api: ApiServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    assert "can't connect to 127.0.0.1" in detail(client_of(api, KUBERNETES_SERVICE_PORT=port))


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({}, "KUBERNETES_SERVICE_HOST is not set, so this is not a Pod"),
        ({"KUBERNETES_SERVICE_HOST": ""}, "KUBERNETES_SERVICE_HOST is not set"),
        ({"KUBERNETES_SERVICE_HOST": "a b"}, "are not a host and a port"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "https"}, "are not a host and a port"),
    ],
)
def test_program_outside_a_pod_says_so(api: ApiServer, environ: dict[str, str], text: str) -> None:
    with pytest.raises(HwsignerError, match=text):
        Cluster(environ, lambda error: None, folder=str(api.folder))


@pytest.mark.parametrize("name", ["token", "ca.crt"])
def test_pod_without_its_files_says_so(api: ApiServer, name: str) -> None:
    (api.folder / name).unlink()
    with pytest.raises(HwsignerError, match=name):
        client_of(api)


@contextmanager
def on_ipv6(api: ApiServer) -> Iterator[dict[str, str]]:
    """Lead connections to ::1 to an API server."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = int(api.environ["KUBERNETES_SERVICE_PORT"])

        def lead() -> None:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()
                done.wait(10)

        done = threading.Event()
        thread = threading.Thread(target=lead, daemon=True)
        thread.start()
        yield {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": str(listener.getsockname()[1])}
        done.set()
        thread.join()


def _pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
    except OSError:
        pass


def test_api_server_has_an_ipv6_address(tmp_path: Path) -> None:
    with api_server(tmp_path / "account", host="::1") as api, on_ipv6(api) as environ:
        assert ask(Cluster(environ, lambda error: None, folder=str(api.folder))) == 200
        [(_, _, headers, _)] = api.requests
        assert headers["Host"] == f"[::1]:{environ['KUBERNETES_SERVICE_PORT']}"


def test_reviews_run_at_the_same_time(pods: Pods, api: ApiServer) -> None:
    both = threading.Barrier(2, timeout=10)

    def answer(exchange: Exchange) -> None:
        both.wait()
        answer_well(exchange)

    api.answer = answer

    async def ask_two() -> list[object]:
        return list(await asyncio.gather(*(pods.ask(RSA_ISSUER.token(), f"10.0.0.{end}") for end in (1, 2))))

    assert all(isinstance(answer, tuple) for answer in asyncio.run(ask_two()))
