"""Name look-up and TCP under one deadline."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from hwsigner.errors import ServiceUnreachableError
from hwsigner.http import connection
from hwsigner.http.connection import Deadline, StreamReader, connect, time_left
from loopback import Connection, Server


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


def test_connection_times_out_when_packets_are_dropped() -> None:
    with _black_hole() as port, pytest.raises(ServiceUnreachableError, match="--connect-timeout") as caught:
        connect("127.0.0.1", port, peer="here", deadline=Deadline(0.3, "--connect-timeout"))
    assert caught.value.retryable


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
