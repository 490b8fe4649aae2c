"""Whose a connection is, by the kernel's tables."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hwsigner.serving.peer import Address, Connection, find_owners
from serving.connected import KINDS, NOBODY, connection_of, ends_of, pair

_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def owner(client: Address, server: Address, *tables: tuple[str, str]) -> int | None:
    return find_owners([Connection(client, server)], *tables)[0]


@pytest.mark.parametrize(("family", "address", "to"), KINDS)
def test_a_connection_of_this_process_is_this_user_s(family: int, address: str, to: str | None) -> None:
    listener, client, accepted = pair(family, address, to)
    with listener, client, accepted:
        assert owner(*ends_of(accepted)) == os.geteuid()


def test_a_closed_connection_is_nobody_s() -> None:
    listener, client, accepted = pair(socket.AF_INET, "127.0.0.1")
    with listener, accepted:
        ends = ends_of(accepted)
        client.close()
        assert accepted.recv(1) == b""
        assert owner(*ends) is None


def test_the_other_end_is_meant_and_not_this_one() -> None:
    listener, client, accepted = pair(socket.AF_INET, "127.0.0.1")
    with listener, client, accepted:
        peer, own = ends_of(accepted)
        assert owner(peer, Address(own.host, 1)) is None
        assert owner(Address("127.0.0.2", peer.port), own) is None


if os.geteuid() == 0:

    def test_a_connection_of_another_user_is_theirs() -> None:
        with connection_of(NOBODY) as accepted:
            assert owner(*ends_of(accepted)) == NOBODY


def _line(client: str, server: str, state: str = "01", uid: int = 1000) -> str:
    return (
        f"   0: {client} {server} {state} 00000000:00000000 00:00000000 00000000  {uid}        0 1 1 0 20 4 0 10 -1\n"
    )


def test_a_table_is_read_to_its_last_line(tmp_path: Path) -> None:
    four, six = tmp_path / "tcp", tmp_path / "tcp6"
    others = [_line(f"0100007F:{port:04X}", "0100007F:26B7", uid=7) for port in range(2000)]
    four.write_text(_HEAD + "".join(others) + _line("0100007F:C001", "0100007F:26B7", uid=4242))
    six.write_text(_HEAD)
    client, server = Address("127.0.0.1", 0xC001), Address("127.0.0.1", 9911)
    assert owner(client, server, (str(four), str(six))) == 4242
    assert owner(Address("127.0.0.1", 0xC002), server, (str(four), str(six))) is None


@pytest.mark.parametrize("state", ["02", "04", "05", "06", "07", "08"])
def test_a_socket_that_is_not_established_has_no_owner(tmp_path: Path, state: str) -> None:
    table = tmp_path / "tcp"
    table.write_text(_HEAD + _line("0100007F:C001", "0100007F:26B7", state, 0))
    ends = Address("127.0.0.1", 0xC001), Address("127.0.0.1", 9911)
    assert owner(*ends, (str(table), str(tmp_path / "missing"))) is None
