"""Who makes room where too many clients have come: never one user for another's flood."""

from __future__ import annotations

import math
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.agent.clients import Client, Clients


def client(uid: int) -> Client:
    """A client whose socket is never used."""
    nowhere: Any = socket.socket
    return Client(nowhere, uid, math.inf)


def test_client_that_has_sent_no_request_for_the_longest_is_dropped_first() -> None:
    crowd, clients = Clients(), [client(1) for _ in range(3)]
    profile: Any = "web"
    for each in clients:
        crowd.enter(each)
    crowd.wait(clients[0], profile)
    assert crowd.least() is clients[1]


def test_last_client_of_the_profile_with_most_waiting_is_dropped_next() -> None:
    crowd, clients = Clients(), [client(1) for _ in range(5)]
    for each, profile in zip(clients, ("slow", "slow", "web", "slow", "web"), strict=True):
        crowd.wait(each, profile)  # type: ignore[arg-type]
    assert crowd.least() is clients[3]


@pytest.mark.parametrize("waits", [True, False])
def test_client_of_the_user_with_most_connections_is_dropped(waits: bool) -> None:
    crowd, single = Clients(), client(1)
    profile: Any = "web"
    crowd.enter(single)
    for _ in range(2):
        other = client(2)
        crowd.enter(other)
        if waits:
            crowd.wait(other, profile)
    assert crowd.least().uid == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "web", "db"])), min_size=1))
def test_there_is_always_a_client_to_drop(crowded: list[tuple[int, Any]]) -> None:
    crowd = Clients()
    for uid, profile in crowded:
        each = client(uid)
        crowd.enter(each)
        if profile:
            crowd.wait(each, profile)
    for count in range(len(crowded), 0, -1):
        assert len(crowd) == count
        crowd.leave(crowd.least())
