"""Who makes room where too many clients have come: never one user for another's flood."""

from __future__ import annotations

import math
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.agent.clients import Client, Crowd


def client(uid: int) -> Client:
    """A client whose socket is never used."""
    nowhere: Any = socket.socket
    return Client(nowhere, uid, math.inf)


def test_who_has_said_nothing_for_the_longest_time_goes_first() -> None:
    crowd, clients = Crowd(), [client(1) for _ in range(3)]
    profile: Any = "web"
    for each in clients:
        crowd.enter(each)
    crowd.wait(clients[0], profile)
    assert crowd.least() is clients[1]


def test_then_the_last_for_the_profile_that_most_wait_for() -> None:
    crowd, clients = Crowd(), [client(1) for _ in range(5)]
    for each, profile in zip(clients, ("slow", "slow", "web", "slow", "web"), strict=True):
        crowd.wait(each, profile)  # type: ignore[arg-type]
    assert crowd.least() is clients[3]


@pytest.mark.parametrize("waits", [True, False])
def test_one_of_the_user_with_most_connections_goes(waits: bool) -> None:
    crowd, single = Crowd(), client(1)
    profile: Any = "web"
    crowd.enter(single)
    for _ in range(2):
        other = client(2)
        crowd.enter(other)
        if waits:
            crowd.wait(other, profile)
    assert crowd.least().uid == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "web", "db"])), min_size=1))
def test_there_is_always_one(crowded: list[tuple[int, Any]]) -> None:
    crowd = Crowd()
    for uid, profile in crowded:
        each = client(uid)
        crowd.enter(each)
        if profile:
            crowd.wait(each, profile)
    for count in range(len(crowded), 0, -1):
        assert len(crowd) == count
        crowd.leave(crowd.least())
