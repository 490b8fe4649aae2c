"""Which client is dropped when there are too many: one user's flood never costs another user a client."""

from __future__ import annotations

import math
import socket
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._agent.clients import Client, Clients


def client(uid: int) -> Client:
    """A client whose socket is never used."""
    nowhere: Any = socket.socket
    return Client(nowhere, uid, math.inf)


def test_client_that_has_sent_no_request_for_the_longest_is_dropped_first() -> None:
    clients, some = Clients(), [client(1) for _ in range(3)]
    profile: Any = "web"
    for each in some:
        clients.enter(each)
    clients.wait(some[0], profile)
    assert clients.least() is some[1]


def test_last_client_of_the_profile_with_most_waiting_is_dropped_next() -> None:
    clients, some = Clients(), [client(1) for _ in range(5)]
    for each, profile in zip(some, ("slow", "slow", "web", "slow", "web"), strict=True):
        clients.wait(each, profile)  # type: ignore[arg-type]
    assert clients.least() is some[3]


@pytest.mark.parametrize("waits", [True, False])
def test_client_of_the_user_with_most_connections_is_dropped(waits: bool) -> None:
    clients, single = Clients(), client(1)
    profile: Any = "web"
    clients.enter(single)
    for _ in range(2):
        other = client(2)
        clients.enter(other)
        if waits:
            clients.wait(other, profile)
    assert clients.least().uid == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "web", "db"])), min_size=1))
def test_there_is_always_a_client_to_drop(crowded: list[tuple[int, Any]]) -> None:
    clients = Clients()
    for uid, profile in crowded:
        each = client(uid)
        clients.enter(each)
        if profile:
            clients.wait(each, profile)
    for count in range(len(crowded), 0, -1):
        assert clients.count == count
        clients.leave(clients.least())


@pytest.mark.parametrize("waits", [True, False])
def test_room_for_a_client_costs_the_same_among_few_and_many(waits: bool) -> None:
    """Else a flood of silent connections would keep the agent from answering others in time."""
    steps = []
    for count in (8, 2048):
        clients = Clients()
        for number in range(count):
            each = client(number % 4)
            clients.enter(each)
            if waits:
                clients.wait(each, f"profile {number % 2}")  # type: ignore[arg-type]
        seen: list[str] = []

        def trace(_frame: FrameType, event: str, _argument: object, seen: list[str] = seen) -> Any:
            seen.append(event)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            clients.leave(clients.least())
            clients.enter(client(4))
        finally:
            sys.settrace(before)
        assert clients.count == count
        steps.append(len(seen))
    assert steps[0] == steps[1]


def test_user_of_many_connections_is_left_with_no_less_than_a_share() -> None:
    clients = Clients()
    for uid in [1] * 90 + [2] * 10:
        clients.enter(client(uid))
    for _ in range(1000):
        clients.leave(clients.least())
        clients.enter(client(1))
    assert sum(each.uid == 2 for each in clients.reading()) == 10
