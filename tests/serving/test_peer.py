"""Whose a connection is, by the kernel's own answer; and what is done where it gives none."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from typing import Any

import pytest

from hwsigner.serving.peer import ESTABLISHED, Address, Connection, Found, Owners, find_socket
from serving.connected import KINDS, NOBODY, connection_of, ends_of, pair


@pytest.mark.parametrize(("family", "address", "to"), KINDS)
def test_both_ends_are_found(family: int, address: str, to: str | None) -> None:
    listener, client, accepted = pair(family, address, to)
    with listener, client, accepted:
        one, other = ends_of(accepted)
        assert find_socket(one, other) == find_socket(other, one) == Found(ESTABLISHED, os.geteuid())


if os.geteuid() == 0:

    def test_another_user_s_is_theirs() -> None:
        with connection_of(NOBODY) as accepted:
            one, other = ends_of(accepted)
            assert find_socket(one, other) == Found(ESTABLISHED, NOBODY)
            assert find_socket(other, one) == Found(ESTABLISHED, os.geteuid())


def test_what_is_not_there_is_not_found() -> None:
    assert find_socket(Address("127.0.0.1", 1), Address("127.0.0.1", 2)) is None
    assert find_socket(Address("::1", 1), Address("::1", 2)) is None
    assert find_socket(Address("127.0.0.1", 1), Address("127.0.0.1", 2)) is None
    assert find_socket(Address("nowhere", 1), Address("127.0.0.1", 2)) is None


def test_a_closed_one_is_nobody_s_though_root_has_it() -> None:
    owners = Owners(find=lambda _: pytest.fail("the tables are looked through"))
    listener, client, accepted = pair(socket.AF_INET, "127.0.0.1")
    with listener, accepted:
        connection = Connection(*ends_of(accepted))
        assert asyncio.run(owners.owner(connection)) == os.geteuid()
        client.close()
        assert accepted.recv(1) == b""
        assert asyncio.run(owners.owner(connection)) is None
    assert asyncio.run(owners.owner(connection)) is None


@pytest.mark.parametrize(("error", "asked"), [(None, 4), (PermissionError(1, "no"), 1)])
def test_a_kernel_without_it_leaves_it_to_the_tables(error: OSError | None, asked: int) -> None:
    ends: list[tuple[Address, Address]] = []

    def ask(own: Address, other: Address) -> None:
        ends.append((own, other))
        if error:
            raise error

    owners = Owners(ask, lambda connections: [4711] * len(connections))
    client, server = Address("127.0.0.1", 1), Address("127.0.0.1", 2)
    assert [asyncio.run(owners.owner(Connection(client, server))) for _ in range(2)] == [4711, 4711]
    assert ends == ([(client, server), (server, client)] * 2)[:asked]


@pytest.mark.parametrize(
    ("known", "uid", "questions"),
    [
        ({1: Found(ESTABLISHED, 4711)}, 4711, [1, 1]),
        ({2: Found(ESTABLISHED, 0)}, None, [1, 2, 1]),  # Our own end, which is asked for once.
    ],
)
def test_where_the_kernel_answers_it_is_asked_no_more_than_it_takes(
    known: dict[int, Found], uid: int | None, questions: list[int]
) -> None:
    asked: list[int] = []

    def ask(own: Address, other: Address) -> Found | None:
        asked.append(own.port)
        return known.get(own.port)

    owners = Owners(ask, lambda connections: [12345] * len(connections))
    connection = Connection(Address("127.0.0.1", 1), Address("127.0.0.1", 2))
    assert [asyncio.run(owners.owner(connection)) for _ in range(2)] == [uid, uid]
    assert asked == questions


@pytest.mark.parametrize(
    ("sender", "number", "error", "problem"),
    [
        (0, 1, errno.EPERM, "sock_diag refused"),
        (4711, 1, errno.ENOENT, "another process"),
        (0, 2, errno.ENOENT, "another process"),
    ],
)
def test_another_answer_than_the_kernel_s_to_this_question_is_none(
    sender: int, number: int, error: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = struct.pack("=IHHIIi", 36, 2, 0, number, 0, -error)
    monkeypatch.setattr(socket.socket, "recvfrom", lambda *_: (answer, (sender, 0)))
    with pytest.raises(OSError, match=problem):
        find_socket(Address("127.0.0.1", 1), Address("127.0.0.1", 2))


@pytest.mark.parametrize("name", ["sendto", "recvfrom"])
def test_where_it_is_forbidden_the_tables_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket.socket, name, refuse)
    with pytest.raises(PermissionError):
        find_socket(Address("127.0.0.1", 1), Address("127.0.0.1", 2))
