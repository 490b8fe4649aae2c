"""Which user a client is, as the kernel tells; and that a wrong or missing answer of the kernel is an error."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from hwsigner._serving import peer
from hwsigner._serving.peer import ESTABLISHED, Address, Peer, Socket, find_socket, find_uid
from serving.connected import KINDS, NOBODY, connection_of, ends_of, pair

NOWHERE = ("127.0.0.1", 1), ("127.0.0.1", 2)


@pytest.mark.parametrize(("family", "address", "to"), KINDS)
def test_both_ends_are_found(family: int, address: str, to: str | None) -> None:
    listener, client, accepted = pair(family, address, to)
    with listener, client, accepted:
        one, other = ends_of(accepted)
        assert find_socket(one, other) == find_socket(other, one) == Socket(ESTABLISHED, os.geteuid())
        assert find_uid(one, other) == os.geteuid()


@pytest.mark.root
def test_connection_of_another_user_is_theirs() -> None:
    with connection_of(NOBODY) as accepted:
        client, server = ends_of(accepted)
        assert find_uid(client, server) == NOBODY
        assert find_uid(server, client) == os.geteuid()


def test_socket_that_does_not_exist_is_not_found() -> None:
    assert find_socket(*NOWHERE) is None
    assert find_socket(("::1", 1), ("::1", 2)) is None
    assert find_socket(("nowhere", 1), ("127.0.0.1", 2)) is None


@pytest.mark.parametrize(("family", "address", "to"), KINDS)
@pytest.mark.parametrize("is_reset", [False, True])
def test_closed_client_has_no_user(family: int, address: str, to: str | None, is_reset: bool) -> None:
    """Its socket belongs to root by then. After a reset the kernel only knows the listening socket of the server."""
    listener, client, accepted = pair(family, address, to)
    with listener, accepted:
        ends = ends_of(accepted)
        if is_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert find_uid(*ends) is None


def test_client_of_another_machine_has_no_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert find_uid(("192.0.2.1", 4711), listener.getsockname()) is None


def test_kernel_without_tcp_diag_is_an_error() -> None:
    """It answers that it knows no socket, not even the listening one; as it does here, for ports that are not open."""
    with pytest.raises(OSError, match="the kernel module tcp_diag is missing"):
        find_uid(*NOWHERE)


class Transport:
    """A connection with these ends."""

    def __init__(self, client: Address | None) -> None:
        self.extra = {"peername": client and (*client, 0, 0), "sockname": ("::1", 9911, 0, 0)}

    def get_extra_info(self, name: str) -> Any:
        return self.extra[name]


def test_user_of_a_connection_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Address, Address]] = []

    def find(own: Address, other: Address) -> Socket:
        asked.append((own, other))
        return Socket(ESTABLISHED, 4711)

    monkeypatch.setattr(peer, "find_socket", find)
    client = Peer(Transport(("::1", 5)))  # type: ignore[arg-type]
    assert (client.uid, client.uid) == (4711, 4711)
    assert asked == [(("::1", 5), ("::1", 9911))]


def test_client_that_left_at_once_has_an_empty_address() -> None:
    assert Peer(Transport(None)).client == ("", 0)  # type: ignore[arg-type]


@pytest.fixture
def own_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sockets to the kernel for this test alone: the real answer stays in them, and no later test may get it."""
    kernels: list[socket.socket] = []
    monkeypatch.setattr(peer, "_kernels", kernels)
    yield
    for kernel in kernels:
        kernel.close()


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize(
    ("sender", "late_by", "error", "problem"),
    [
        (0, 0, errno.EPERM, "Operation not permitted"),
        (4711, 0, errno.ENOENT, "another process"),
        (0, 1, errno.ENOENT, "answer to another question"),
    ],
)
def test_answer_that_is_not_the_kernel_s_own_is_an_error(
    sender: int, late_by: int, error: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "_numbers", itertools.count(4711))
    answer = struct.pack("=IHHIIi", 36, 2, 0, 4711 - late_by, 0, -error)
    monkeypatch.setattr(socket.socket, "recvfrom", lambda *_: (answer, (sender, 0)))
    with pytest.raises(OSError, match=problem):
        find_socket(*NOWHERE)


@pytest.mark.usefixtures("own_kernels")
def test_answer_to_an_earlier_question_is_an_error() -> None:
    listener, client, accepted = pair(socket.AF_INET, "127.0.0.1", None)
    with listener, client, accepted:
        one, other = ends_of(accepted)
        find_socket(one, other)
        (kernel,) = peer._kernels
        kernel.sendto(_question_of(one, other), (0, 0))  # Its answer is not read.
        with pytest.raises(OSError, match="answer to another question"):
            find_socket(*NOWHERE)
        assert not peer._kernels
        assert find_socket(one, other) == Socket(ESTABLISHED, os.geteuid())


def _question_of(one: Address, other: Address) -> bytes:
    question = peer._question(one, other)
    return peer._HEADER.pack(peer._HEADER.size + len(question), 20, 1, next(peer._numbers), 0) + question


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("name", ["sendto", "recvfrom"])
def test_forbidden_question_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket.socket, name, refuse)
    with pytest.raises(PermissionError):
        find_uid(*NOWHERE)
