"""One POST request: through TLS and proxies, under a deadline, with every fault of the other end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hwsigner._http.address import Endpoint
from hwsigner._http.connection import Deadline, Proxy
from hwsigner._http.tls import TrustedCAs, find_cas
from hwsigner._http.transport import MAX_BODY_BYTES, Response, TransportOptions, post
from hwsigner.errors import ConfigError, ServiceUnreachableError
from loopback import OK, Connection, Serve, Server, ServerCA, answering, connect_proxy, recording

HEADERS = (("Host", "h.example"), ("X-Amz-Date", "20260101T000000Z"), ("Authorization", "A  b=c, \td"))
BODY = b'{"durationSeconds":3600}'
DEFAULTS = TransportOptions()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ServerCA:
    return ServerCA(tmp_path_factory.mktemp("ca"))


def _trusting(ca: ServerCA, **changes: object) -> TransportOptions:
    cas = find_cas({"AWS_CA_BUNDLE": str(ca.path)})
    return TransportOptions(**{"cas": cas, **changes})  # type: ignore[arg-type]


def _post(endpoint: Endpoint, options: TransportOptions = DEFAULTS, seconds: float = 20) -> Response:
    return post(endpoint, "/sessions?a=%3A", HEADERS, BODY, options=options, deadline=Deadline(seconds))


@contextmanager
def _unreachable(text: str, *, retryable: bool = True) -> Iterator[None]:
    """Expect an error with this text, within seconds."""
    waiting = Deadline(8)
    with pytest.raises(ServiceUnreachableError) as caught:
        yield
    assert text in str(caught.value)
    assert caught.value.retryable is retryable
    assert caught.value.exit_status == 6
    assert waiting.remaining(), "the error came too late"


# Request and response


def test_request_is_sent_exactly_as_signed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password x\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    requests: list[bytes] = []
    with Server(recording(requests)) as server:
        answer = _post(server.endpoint())
    assert requests == [
        b"POST /sessions?a=%3A HTTP/1.1\r\nHost: h.example\r\nX-Amz-Date: 20260101T000000Z\r\n"
        b"Authorization: A  b=c, \td\r\nContent-Length: 24\r\nConnection: close\r\n\r\n" + BODY
    ]
    assert (answer.status, answer.body, answer.headers.get("x-amzn-requestid")) == (201, b"hi", "r-1")


@pytest.mark.parametrize(
    ("wire", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 200, b"abcde"),
        (b"HTTP/1.0 403 No\r\n\r\nuntil the end", 403, b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 201, b"hi"),
        (b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", 307, b""),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, b""),
    ],
)
def test_response_is_read_in_every_framing(wire: bytes, status: int, body: bytes) -> None:
    with Server(answering(wire)) as server:
        answer = _post(server.endpoint())
    assert (answer.status, answer.body) == (status, body)
    assert server.accepted == 1


def test_body_of_the_largest_size_is_accepted() -> None:
    body = bytes(MAX_BODY_BYTES)
    with Server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)) as server:
        assert _post(server.endpoint()).body == body


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\0", "é", "a\x7f"])
def test_control_characters_are_refused_in_target_and_headers(value: str) -> None:
    nowhere = Endpoint("http", "127.0.0.1", 9, "/")
    for target, headers in ((f"/{value}", []), ("/", [("X", value)]), ("/", [(value, "x")])):
        with pytest.raises(ValueError, match="control or non-ASCII"):
            post(nowhere, target, headers, b"", options=DEFAULTS, deadline=Deadline(5))


# Time


def _silent(connection: Connection) -> None:
    connection.stopping.wait(30)


def _dripping(data: bytes) -> Serve:
    def serve(connection: Connection) -> None:
        connection.read_request()
        connection.drip(data)

    return serve


_SLOW = {
    "silent": _silent,
    "headers dripped": _dripping(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 99),
    "body dripped": _dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n" + bytes(900)),
    "chunks dripped": _dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 99),
    "interim answers dripped": _dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
    "never closed": _dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _SLOW)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_slow_response_is_given_up(name: str, scheme: str, ca: ServerCA) -> None:
    context = ca.context("127.0.0.1") if scheme == "https" else None
    with Server(_SLOW[name], context) as server, _unreachable("within 0.3 s (--read-timeout)"):
        _post(server.endpoint(scheme), _trusting(ca, read_timeout=0.3))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_total_time_is_limited_too(scheme: str, ca: ServerCA) -> None:
    with Server(_silent) as server, _unreachable("within 0.3 s (--timeout)"):
        _post(server.endpoint(scheme), _trusting(ca), seconds=0.3)


def test_nothing_is_sent_when_no_time_is_left() -> None:
    with Server(answering()) as server, _unreachable("(--timeout)"):
        _post(server.endpoint(), seconds=0)


@pytest.mark.slow
@pytest.mark.parametrize("first_bytes", [b"", b"\x16\x03\x03\x40\x00"])
def test_slow_tls_handshake_is_given_up(first_bytes: bytes, ca: ServerCA) -> None:
    def serve(connection: Connection) -> None:
        connection.drip(first_bytes + bytes(500) if first_bytes else b"")

    with Server(serve) as server, _unreachable("within 0.3 s (--connect-timeout)"):
        _post(server.endpoint("https"), _trusting(ca, connect_timeout=0.3))


@pytest.mark.slow
def test_slow_proxy_is_given_up(ca: ServerCA) -> None:
    with Server(_dripping(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 99)) as server, _unreachable("(--connect-timeout)"):
        _post(_AWS, _trusting(ca, connect_timeout=0.3, proxy=_proxy(server)))


# Broken responses


def _reset(connection: Connection) -> None:
    connection.read_request()
    connection.reset()


_CUT = "closed the connection before its response was complete"


@pytest.mark.parametrize(
    ("serve", "text", "retryable"),
    [
        (_reset, "failed: Connection reset by peer", True),
        (lambda c: c.read_request(), _CUT, True),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), _CUT, True),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), _CUT, True),
        (answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"), _CUT, True),
        (answering(b"HTTP/1.1 201 X\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc"), "did not answer with HTTP", True),
        (answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), _CUT, True),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"), "longer than 1048576", False),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999\r\n\r\n"), "longer than 1048576", False),
        (answering(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MAX_BODY_BYTES + 1)), "longer than 1048576", False),
        (
            answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n" + bytes(2 << 20)),
            "longer than 1048576",
            False,
        ),
        (answering(b"SSH-2.0-OpenSSH\r\n"), "did not answer with HTTP", True),
        (answering(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"), "did not answer with HTTP", True),
        (answering(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99999), "did not answer with HTTP", True),
    ],
)
def test_broken_response_is_an_error(serve: Serve, text: str, retryable: bool) -> None:
    with Server(serve) as server, _unreachable(text, retryable=retryable):
        _post(server.endpoint())
    assert server.accepted == 1


_HEAD = (
    b"HTTP/1.1 201 Created\r\nDate: Mon, 30 Nov 2026 18:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"x-amzn-RequestId: 7b5c1f0e-54d9-4b36-9b0a-3f8f3f4f7c11\r\nConnection: close\r\n"
)
_ANSWER = b'{"credentialSet":[{"credentials":{"accessKeyId":"ASIAEXAMPLE","expiration":"2026-11-30T19:00:00Z"}}]}'
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n40\r\n" + _ANSWER[:64] + b"\r\n%x\r\n" % len(_ANSWER[64:])


@pytest.mark.parametrize(
    "answer",
    [_HEAD + b"Content-Length: %d\r\n\r\n" % len(_ANSWER) + _ANSWER, _CHUNKED + _ANSWER[64:] + b"\r\n"],
    ids=["length", "chunked"],
)
def test_response_cut_anywhere_is_retryable(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for length in range(len(answer)):
        monkeypatch.setattr("hwsigner._http.transport.connect", lambda *_, cut=length, **__: _Cut(answer[:cut]))
        with _unreachable("h.example"):
            _post(Endpoint("http", "h.example", 80, ""))


class _Cut:
    """A Stream that gives some bytes, and then its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def receive(self, size: int, _: Deadline) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data

    def send(self, data: bytes, deadline: Deadline) -> None:
        pass

    def close(self) -> None:
        pass


def test_error_contains_no_part_of_the_response() -> None:
    wire = b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"secretAccessKey":"wJalr"'
    with Server(answering(wire)) as server, pytest.raises(ServiceUnreachableError) as caught:
        _post(server.endpoint())
    assert caught.value.__cause__ is None
    assert "wJalr" not in repr(caught.value)


# TLS


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_https_is_verified_and_works(host: str, ca: ServerCA) -> None:
    with Server(answering(), ca.context(host)) as server:
        assert _post(server.endpoint("https", host), _trusting(ca)).status == 201


def test_complete_response_needs_no_close_notify(ca: ServerCA) -> None:
    with Server(answering(), ca.context("127.0.0.1")) as server:
        assert _post(server.endpoint("https"), _trusting(ca)).body == b"hi"


@pytest.mark.parametrize("wire", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"HTTP/1.1 200 OK\r\n\r\nabc"])
def test_cut_tls_connection_is_an_error(wire: bytes, ca: ServerCA) -> None:
    with Server(answering(wire), ca.context("127.0.0.1")) as server, _unreachable("closed the connection"):
        _post(server.endpoint("https"), _trusting(ca))


@pytest.mark.parametrize(
    ("names", "days", "reason"),
    [
        (["127.0.0.2"], 30, "IP address mismatch"),
        (["h.example"], 30, "IP address mismatch"),
        (["127.0.0.1"], -1, "certificate has expired"),
    ],
)
def test_invalid_server_certificate_is_an_error_before_anything_is_sent(
    names: list[str], days: int, reason: str, ca: ServerCA
) -> None:
    requests: list[bytes] = []
    with (
        Server(recording(requests), ca.context(*names, days=days)) as server,
        pytest.raises(ServiceUnreachableError, match=f"is not trusted: {reason}") as caught,
    ):
        _post(server.endpoint("https"), _trusting(ca))
    assert f"(trusted: AWS_CA_BUNDLE={ca.path})" in caught.value.message
    assert not caught.value.retryable
    assert requests == []


def test_untrusted_ca_is_an_error_that_names_the_trusted_ones(ca: ServerCA, tmp_path: Path) -> None:
    other = ServerCA(tmp_path)
    with Server(answering(), ca.context("127.0.0.1")) as server:
        with _unreachable(f"AWS_CA_BUNDLE={other.path}", retryable=False):
            _post(server.endpoint("https"), _trusting(other))
        with _unreachable("the system's CAs in /", retryable=False):
            _post(server.endpoint("https"))
        assert _post(server.endpoint("https"), TransportOptions(verify=False)).status == 201
        both = {"AWS_CA_BUNDLE": str(ca.path), "SSL_CERT_FILE": str(other.path)}
        assert _post(server.endpoint("https"), TransportOptions(cas=find_cas(both))).status == 201


def test_folder_of_cas_is_trusted(ca: ServerCA) -> None:
    subprocess.run(["openssl", "rehash", str(ca.path.parent)], check=True)
    cas = find_cas({"SSL_CERT_DIR": str(ca.path.parent)})
    with Server(answering(), ca.context("127.0.0.1")) as server:
        assert _post(server.endpoint("https"), TransportOptions(cas=cas)).status == 201


def test_missing_bundle_is_an_error_before_anything_is_sent(tmp_path: Path) -> None:
    options = TransportOptions(cas=find_cas({"AWS_CA_BUNDLE": f"{tmp_path}/none.pem"}))
    with Server(answering()) as server, pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE=.*none\.pem: No such file"):
        _post(server.endpoint("https"), options)
    assert server.accepted == 0


def test_plain_http_instead_of_tls_is_an_error(ca: ServerCA) -> None:
    answer = b"HTTP/1.1 400 Bad\r\n\r\n"
    with Server(lambda c: c.sock.sendall(answer)) as server, _unreachable("TLS with 127.0.0.1:", retryable=False):
        _post(server.endpoint("https"), _trusting(ca))


def test_tls_closed_in_the_handshake_is_retryable(ca: ServerCA) -> None:
    with Server(lambda c: None) as server, _unreachable(f"127.0.0.1:{server.port}"):
        _post(server.endpoint("https"), _trusting(ca))


def test_sslkeylogfile_is_ignored(ca: ServerCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with Server(answering(), ca.context("127.0.0.1")) as server:
        _post(server.endpoint("https"), _trusting(ca))
    assert list(tmp_path.iterdir()) == []


def test_one_tls_context_serves_every_attempt(ca: ServerCA) -> None:
    options = _trusting(ca)
    assert options._tls is options._tls


# Proxies

_AWS = Endpoint("https", "aws.example", 443, "/sessions")


def _proxy(server: Server, scheme: str = "http", authorization: str | None = None) -> Proxy:
    return Proxy(scheme, "127.0.0.1", server.port, f"{scheme.upper()}_PROXY", authorization)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("authorization", [None, "Basic bWU6cA=="])
def test_https_goes_through_a_proxy_tunnel(scheme: str, authorization: str | None, ca: ServerCA) -> None:
    requests: list[bytes] = []
    heads: list[bytes] = []
    proxy_tls = ca.context("127.0.0.1") if scheme == "https" else None
    with (
        Server(recording(requests), ca.context("aws.example")) as aws,
        Server(connect_proxy(heads, {"aws.example:443": aws.port}, authorization), proxy_tls) as proxy,
    ):
        answer = _post(_AWS, _trusting(ca, proxy=_proxy(proxy, scheme, authorization)))
    assert answer.body == b"hi"
    extra = f"Proxy-Authorization: {authorization}\r\n" if authorization else ""
    assert heads == [f"CONNECT aws.example:443 HTTP/1.1\r\nHost: aws.example:443\r\n{extra}\r\n".encode()]
    assert requests[0].startswith(b"POST /sessions?a=%3A HTTP/1.1\r\nHost: h.example\r\n")
    assert b"Proxy-Authorization" not in requests[0]


def test_http_goes_through_a_proxy() -> None:
    requests: list[bytes] = []
    endpoint = Endpoint("http", "aws.example", 8080, "/sessions")
    with Server(recording(requests)) as proxy:
        options = TransportOptions(proxy=_proxy(proxy, authorization="Basic bWU6cA=="))
        assert _post(endpoint, options).status == 201
    assert requests[0].startswith(b"POST http://aws.example:8080/sessions?a=%3A HTTP/1.1\r\nHost: h.example\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6cA==\r\n" in requests[0]


@pytest.mark.parametrize("endpoint", [_AWS, _AWS._replace(scheme="http", port=80)])
def test_proxy_that_requires_a_password_is_an_error_with_a_hint(endpoint: Endpoint, ca: ServerCA) -> None:
    wire = b"HTTP/1.1 407 \x1b[31mWho\r\nContent-Length: 0\r\n\r\n"
    with Server(answering(wire)) as server:
        proxy = _proxy(server, authorization="Basic aHVudGVyMg==")
        message = f"the proxy http://127.0.0.1:{server.port} (HTTP_PROXY) answered 407"
        with _unreachable(message, retryable=False):
            _post(endpoint, _trusting(ca, proxy=proxy))
        with pytest.raises(ServiceUnreachableError) as caught:
            _post(endpoint, _trusting(ca, proxy=proxy))
    assert "aHVudGVyMg" not in repr(caught.value)
    assert "HTTP_PROXY" in caught.value.hint


@pytest.mark.parametrize(("status", "retryable"), [(403, False), (502, True), (204, False), (302, False)])
def test_proxy_that_refuses_is_an_error(status: int, retryable: bool, ca: ServerCA) -> None:
    wire = b"HTTP/1.1 %d Any\r\nContent-Length: 0\r\n\r\n" % status
    with Server(answering(wire)) as proxy, _unreachable(f"answered {status}", retryable=retryable):
        _post(_AWS, _trusting(ca, proxy=_proxy(proxy)))


@pytest.mark.parametrize(("wire", "text"), [(b"", _CUT), (b"SSH-2.0\r\n", "did not answer with HTTP")])
def test_server_that_is_not_a_proxy_is_an_error(wire: bytes, text: str, ca: ServerCA) -> None:
    with Server(answering(wire)) as proxy, _unreachable(f"the proxy http://127.0.0.1:{proxy.port} (HTTP_PROXY)"):
        _post(_AWS, _trusting(ca, proxy=_proxy(proxy)))
    with Server(answering(wire)) as proxy, _unreachable(text):
        _post(_AWS, _trusting(ca, proxy=_proxy(proxy)))


def test_missing_proxy_is_named(ca: ServerCA) -> None:
    proxy = Proxy("http", "127.0.0.1", 9, "HTTPS_PROXY")
    with _unreachable("can't connect to the proxy http://127.0.0.1:9 (HTTPS_PROXY): Connection refused"):
        _post(_AWS, _trusting(ca, proxy=proxy))


def test_certificate_of_the_proxy_is_verified(ca: ServerCA) -> None:
    heads: list[bytes] = []
    with (
        Server(connect_proxy(heads, {}), ca.context("other.example")) as proxy,
        _unreachable("certificate of the proxy https://127.0.0.1", retryable=False),
    ):
        _post(_AWS, _trusting(ca, proxy=_proxy(proxy, "https")))
    assert heads == []


def test_certificate_of_the_endpoint_is_verified_behind_a_proxy(ca: ServerCA) -> None:
    with (
        Server(answering(), ca.context("other.example")) as aws,
        Server(connect_proxy([], {"aws.example:443": aws.port})) as proxy,
        _unreachable("the certificate of aws.example is not trusted: Hostname mismatch", retryable=False),
    ):
        _post(_AWS, _trusting(ca, proxy=_proxy(proxy)))


def test_options_hide_the_password() -> None:
    options = TransportOptions(cas=TrustedCAs("x"), proxy=Proxy("http", "h", 1, "HTTPS_PROXY", "Basic aHVudGVyMg=="))
    assert "aHVudGVyMg" not in repr(options)
