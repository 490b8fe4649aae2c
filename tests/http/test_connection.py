"""The choice of a proxy, by the rules of Go's net/http; name look-up and TCP under one deadline."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._http import connection
from hwsigner._http.address import Endpoint
from hwsigner._http.connection import Deadline, StreamReader, bypasses, connect, find_proxy, time_left
from hwsigner.errors import ServiceUnreachableError, UsageError
from loopback import Connection, Server

HTTPS = Endpoint("https", "api.example.com", 443, "/sessions")
HTTP = HTTPS._replace(scheme="http", port=80)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_deadline_counts_down_to_zero() -> None:
    clock = Clock()
    deadline = Deadline(3, clock=clock)
    assert deadline.remaining() == 3
    clock.now += 2
    assert deadline.remaining() == time_left(deadline, "x") == 1
    clock.now += 2
    assert deadline.remaining() == 0
    with pytest.raises(ServiceUnreachableError, match=r"^h did not answer within 3 s \(--timeout\)") as caught:
        time_left(deadline, "h")
    assert caught.value.retryable


def test_earlier_of_two_deadlines_applies_and_names_its_flag() -> None:
    clock = Clock()
    total = Deadline(10, clock=clock)
    assert str(total.within(2.5, "--read-timeout")) == "2.5 s (--read-timeout)"
    clock.now += 9
    assert total.within(2.5, "--read-timeout") is total
    assert total.within(0.5, "--read-timeout").remaining() == 0.5


def _addresses(*ports: int) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]


@contextmanager
def _closed_port() -> Iterator[int]:
    """Hold a port without listening on it: the kernel refuses connections."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@contextmanager
def _black_hole() -> Iterator[int]:
    """Listen with a full queue: the kernel drops each further SYN."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


def test_connection_refused_is_retryable() -> None:
    refusal = "can't connect to here: Connection refused"
    with _closed_port() as port, pytest.raises(ServiceUnreachableError, match=refusal) as caught:
        connect("127.0.0.1", port, peer="here", deadline=Deadline(5))
    assert caught.value.retryable
    assert caught.value.exit_status == 6


@pytest.mark.slow
def test_connection_times_out_when_packets_are_dropped() -> None:
    with _black_hole() as port, pytest.raises(ServiceUnreachableError, match="--connect-timeout") as caught:
        connect("127.0.0.1", port, peer="here", deadline=Deadline(0.3, "--connect-timeout"))
    assert caught.value.retryable


@pytest.mark.slow
def test_every_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SHORTEST_ATTEMPT_SECONDS", 0.1)
    with _closed_port() as closed, _black_hole() as hole, Server(lambda c: c.sock.sendall(b"hello")) as server:
        found = _addresses(closed, hole, server.port)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
        deadline = Deadline(1.5)
        stream = connect("name.example", 443, peer="here", deadline=deadline)
        try:
            assert stream.receive(5, deadline) == b"hello"
        finally:
            stream.close()


def test_slow_look_up_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def slow(*_args: object, **_options: object) -> list[Any]:
        release.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(
        ServiceUnreachableError, match=r"looking up name\.example took longer.*--connect-timeout"
    ) as caught:
        connect("name.example", 443, peer="here", deadline=Deadline(0.2, "--connect-timeout"))
    release.set()
    assert caught.value.retryable


def test_unknown_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ServiceUnreachableError, match=r"can't look up name\.example: Name or service") as caught:
        connect("name.example", 443, peer="here", deadline=Deadline(5))
    assert caught.value.retryable
    assert "the proxy settings" in caught.value.hint  # The name may be the proxy's.


def test_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: [])
    with pytest.raises(ServiceUnreachableError, match="no address"):
        connect("name.example", 443, peer="here", deadline=Deadline(5))


def test_ip_address_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise AssertionError("a thread for an IP address")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(threading, "Thread", fail)
        connect("127.0.0.1", listener.getsockname()[1], peer="here", deadline=Deadline(5)).close()


def test_small_packets_are_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[tuple[int, int, int]] = []

    class Watched(socket.socket):
        def setsockopt(self, *arguments: Any) -> None:
            options.append(arguments)
            super().setsockopt(*arguments)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(socket, "socket", Watched)
        connect("127.0.0.1", listener.getsockname()[1], peer="here", deadline=Deadline(5)).close()
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in options


@pytest.mark.slow
def test_sending_times_out_when_the_peer_does_not_read() -> None:
    def never_read(served: Connection) -> None:
        served.stopping.wait(30)

    with Server(never_read) as server:
        stream = connect("127.0.0.1", server.port, peer="here", deadline=Deadline(5))
        try:
            with pytest.raises(ServiceUnreachableError, match="--read-timeout"):
                stream.send(bytes(64 << 20), Deadline(0.3, "--read-timeout"))
        finally:
            stream.close()


def test_reader_without_read_ahead_leaves_what_follows() -> None:
    with Server(lambda c: c.sock.sendall(b"one\r\nTLS")) as server:
        deadline = Deadline(5)
        stream = connect("127.0.0.1", server.port, peer="here", deadline=deadline)
        try:
            assert StreamReader(stream, deadline, buffer_size=1).makefile("rb").readline() == b"one\r\n"
            assert StreamReader(stream, deadline).makefile("rb").read() == b"TLS"
        finally:
            stream.close()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://proxy.example:3128", ("http", "proxy.example", 3128, None)),
        ("http://proxy.example:3128/ignored?too#x", ("http", "proxy.example", 3128, None)),
        ("proxy.example:3128", ("http", "proxy.example", 3128, None)),
        ("proxy.example", ("http", "proxy.example", 80, None)),
        ("10.0.0.1:3128", ("http", "10.0.0.1", 3128, None)),
        ("HTTPS://Proxy.Example", ("https", "proxy.example", 443, None)),
        ("http://[2001:db8::1]:3128", ("http", "2001:db8::1", 3128, None)),
        (
            "http://me:p%40ss%3Aw%2Ford@proxy.example:3128",
            ("http", "proxy.example", 3128, "Basic bWU6cEBzczp3L29yZA=="),
        ),
        ("me:p@ss@proxy.example:3128", ("http", "proxy.example", 3128, "Basic bWU6cEBzcw==")),
        ("http://me@proxy.example", ("http", "proxy.example", 80, "Basic bWU6")),
    ],
)
def test_proxy_url_is_parsed(value: str, expected: tuple[str, str, int, str | None]) -> None:
    proxy = find_proxy(HTTPS, {"HTTPS_PROXY": value})
    assert proxy is not None
    assert (proxy.scheme, proxy.host, proxy.port, proxy.authorization) == expected


@pytest.mark.parametrize(
    "value",
    [
        "socks5://me:hunter2@proxy.example:1080", "socks5h://me:hunter2@proxy.example", "ftp://me:hunter2@proxy.example",
        "http://", "http://me:hunter2@", "http://me:hunter2@proxy.example:x", "http://me:hunter2@proxy.example:99999",
        "http://me:hunter2#@proxy.example", "http://me:hunter2@pro xy.example", "http://me:hunter2@proxy.example\r\n:80",
        "http://me:hunter2@prüfung.example", "://me:hunter2@proxy.example",
    ],
)  # fmt: skip
def test_malformed_proxy_is_an_error_that_hides_the_password(value: str) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy"):
        with pytest.raises(UsageError, match=f"^{variable} ") as caught:
            find_proxy(HTTPS, {variable: value})
        assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"


def test_password_is_not_in_str_or_repr() -> None:
    proxy = find_proxy(HTTPS, {"HTTPS_PROXY": "http://me:hunter2@proxy.example"})
    assert proxy is not None
    assert proxy.authorization is not None
    assert str(proxy) == "http://proxy.example:80 (HTTPS_PROXY)"
    for text in (repr(proxy), str(proxy)):
        assert "hunter2" not in text
        assert proxy.authorization not in text


def _chosen(endpoint: Endpoint, **environ: str) -> str | None:
    proxy = find_proxy(endpoint, environ)
    return proxy.variable if proxy else None


def test_variable_is_chosen_by_scheme_and_case() -> None:
    assert _chosen(HTTPS) is None
    assert _chosen(HTTPS, HTTPS_PROXY="a", https_proxy="b") == "HTTPS_PROXY"
    assert _chosen(HTTPS, HTTPS_PROXY="", https_proxy="b") == "https_proxy"
    assert _chosen(HTTPS, HTTP_PROXY="a", ALL_PROXY="b") is None
    assert _chosen(HTTP, HTTP_PROXY="a", http_proxy="b") == "HTTP_PROXY"
    assert _chosen(HTTP, HTTPS_PROXY="a") is None


def test_cgi_program_ignores_http_proxy() -> None:
    assert _chosen(HTTP, HTTP_PROXY="a", REQUEST_METHOD="GET") is None
    assert _chosen(HTTP, HTTP_PROXY="a", http_proxy="b", REQUEST_METHOD="GET") == "http_proxy"
    assert _chosen(HTTPS, HTTPS_PROXY="a", REQUEST_METHOD="GET") == "HTTPS_PROXY"


def test_no_proxy_is_read_in_either_case() -> None:
    assert _chosen(HTTPS, HTTPS_PROXY="a", NO_PROXY="example.com") is None
    assert _chosen(HTTPS, HTTPS_PROXY="a", no_proxy="example.com") is None
    assert _chosen(HTTPS, HTTPS_PROXY="a", NO_PROXY="other", no_proxy="example.com") == "HTTPS_PROXY"
    assert _chosen(HTTPS, HTTPS_PROXY="socks5://unused", NO_PROXY="*") is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_reached_directly(host: str) -> None:
    assert _chosen(HTTPS._replace(host=host), HTTPS_PROXY="a") is None


# As documented by golang.org/x/net/http/httpproxy.
@pytest.mark.parametrize(
    ("exceptions", "host", "port", "expected"),
    [
        ("", "example.com", 443, False),
        (",,", "example.com", 443, False),
        ("*", "example.com", 443, True),
        ("other, *", "example.com", 443, True),
        ("example.com", "example.com", 443, True),
        ("EXAMPLE.com", "example.com", 443, True),
        ("example.com", "a.b.example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        ("example.com", "example.com.evil", 443, False),
        (".example.com", "example.com", 443, False),
        (".example.com", "a.example.com", 443, True),
        ("*.example.com", "a.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("ample.com", "example.com", 443, False),
        ("foo.com , example.com ", "example.com", 443, True),
        ("example.com:443", "example.com", 443, True),
        ("example.com:443", "a.example.com", 443, True),
        ("example.com:80", "example.com", 443, False),
        (":443", "example.com", 443, False),
        ("192.0.2.7", "192.0.2.7", 443, True),
        ("192.0.2.7", "192.0.2.8", 443, False),
        ("192.0.2.7:8443", "192.0.2.7", 443, False),
        ("192.0.2.7:443", "192.0.2.7", 443, True),
        ("192.0.2.7", "::ffff:192.0.2.7", 443, True),
        ("192.0.2.0/24", "192.0.2.7", 443, True),
        ("192.0.2.1/24", "192.0.2.7", 443, True),
        ("192.0.2.0/24", "192.0.3.7", 443, False),
        ("192.0.2.0/24", "example.com", 443, False),
        ("192.0.2.0/33", "192.0.2.7", 443, False),
        ("192.0.2.0/255.255.255.0", "192.0.2.7", 443, False),
        ("192.0.2.0/24", "2001:db8::1", 443, False),
        ("2001:db8::/32", "2001:db8::1", 443, True),
        ("2001:db8::1", "2001:db8::1", 443, True),
        ("2001:DB8:0:0::1", "2001:db8::1", 443, True),
        ("[2001:db8::1]:443", "2001:db8::1", 443, True),
        ("[2001:db8::1]:80", "2001:db8::1", 443, False),
        ("http://example.com", "example.com", 443, False),
    ],
)
def test_no_proxy_lists_hosts_to_reach_directly(exceptions: str, host: str, port: int, expected: bool) -> None:
    assert bypasses(host, port, exceptions) is expected


_LABELS = st.lists(st.sampled_from(["a", "b", "example", "com"]), min_size=1, max_size=4)


@given(_LABELS, _LABELS, st.booleans(), st.sampled_from(["", ":443", ":80"]))
def test_no_proxy_names_match_whole_labels(entry: list[str], host: list[str], dot: bool, port: str) -> None:
    under = len(host) > len(entry) and host[-len(entry) :] == entry
    expected = (under or (host == entry and not dot)) and port != ":80"
    assert bypasses(".".join(host), 443, f"x.test,{'.' if dot else ''}{'.'.join(entry)}{port}") is expected


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_no_proxy_blocks_match_by_prefix(start: IPv4Address, host: IPv4Address, length: int) -> None:
    expected = host.is_loopback or int(start) >> (32 - length) == int(host) >> (32 - length)
    assert bypasses(str(host), 443, f"{start}/{length}") is expected


@given(st.text(), st.text())
def test_any_text_is_a_proxy_or_a_usage_error(value: str, exceptions: str) -> None:
    try:
        shown = str(find_proxy(HTTPS, {"HTTPS_PROXY": value, "NO_PROXY": exceptions}))
    except UsageError as error:
        shown = error.message
    assert shown.isprintable()
    assert shown == "None" or "HTTPS_PROXY" in shown
