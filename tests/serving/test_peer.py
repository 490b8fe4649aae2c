"""The client of a connection, as serve sees it."""

from __future__ import annotations

from typing import Any

import pytest

from hwsigner._serving.peer import Peer
from hwsigner._system import loopback
from hwsigner._system.loopback import ESTABLISHED, Address, Socket


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

    monkeypatch.setattr(loopback, "find_socket", find)
    client = Peer(Transport(("::1", 5)))  # type: ignore[arg-type]
    assert (client.uid, client.uid) == (4711, 4711)
    assert asked == [(("::1", 5), ("::1", 9911))]


def test_client_that_left_at_once_has_an_empty_address() -> None:
    assert Peer(Transport(None)).client == ("", 0)  # type: ignore[arg-type]
