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

from hwsigner._system import loopback
from hwsigner._system.loopback import ESTABLISHED, Address, Socket, find_owner, find_socket
from judges import needs_netlink
from serving.connected import KINDS, NOBODY, connection_of, ends_of, pair

pytestmark = needs_netlink

NOWHERE = ("127.0.0.1", 1), ("127.0.0.1", 2)


@pytest.mark.parametrize(("family", "address", "to"), KINDS)
def test_both_ends_are_found(family: int, address: str, to: str | None) -> None:
    listener, client, accepted = pair(family, address, to)
    with listener, client, accepted:
        one, other = ends_of(accepted)
        assert find_socket(one, other) == find_socket(other, one) == Socket(ESTABLISHED, os.geteuid())
        assert find_owner(one, other) == os.geteuid()


@pytest.mark.root
def test_connection_of_another_user_is_theirs() -> None:
    with connection_of(NOBODY) as accepted:
        client, server = ends_of(accepted)
        assert find_owner(client, server) == NOBODY
        assert find_owner(server, client) == os.geteuid()


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
        assert find_owner(*ends) is None


def test_client_of_another_machine_has_no_user() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert find_owner(("192.0.2.1", 4711), listener.getsockname()) is None


def test_kernel_without_tcp_diag_is_an_error() -> None:
    """It answers that it knows no socket, not even the listening one; as it does here, for ports that are not open."""
    with pytest.raises(OSError, match="the kernel module tcp_diag is missing"):
        find_owner(*NOWHERE)


@pytest.fixture
def own_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sockets to the kernel for this test alone: the real answer stays in them, and no later test may get it."""
    kernels: list[socket.socket] = []
    monkeypatch.setattr(loopback, "_kernels", kernels)
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
    monkeypatch.setattr(loopback, "_numbers", itertools.count(4711))
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
        (kernel,) = loopback._kernels
        kernel.sendto(_question_of(one, other), (0, 0))  # Its answer is not read.
        with pytest.raises(OSError, match="answer to another question"):
            find_socket(*NOWHERE)
        assert not loopback._kernels
        assert find_socket(one, other) == Socket(ESTABLISHED, os.geteuid())


def _question_of(one: Address, other: Address) -> bytes:
    question = loopback._question(one, other)
    return loopback._HEADER.pack(loopback._HEADER.size + len(question), 20, 1, next(loopback._numbers), 0) + question


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("name", ["sendto", "recvfrom"])
def test_forbidden_question_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket.socket, name, refuse)
    with pytest.raises(PermissionError):
        find_owner(*NOWHERE)
