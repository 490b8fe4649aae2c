"""The account of connections: those that owe a request end in time, and first where there are too many."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.serving.connections import HEAD_SECONDS, Connections, most_connections


class FakeConnection:
    def __init__(self) -> None:
        self.is_dropped = False
        self.idle = True

    def drop(self) -> None:
        self.is_dropped = True

    def is_idle(self) -> bool:
        return self.idle


class FakeLoop:
    """What of an event loop is used: one timer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> object:
        self.timers.append((self.now + seconds, call))
        return object()

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and min(self.timers)[0] <= end:
            timer = min(self.timers, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    loop = FakeLoop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


def _accounts(loop: FakeLoop, most: int = 10) -> Connections:
    return Connections(lambda: loop.now, most=most)


def test_who_sends_nothing_is_dropped_in_time(loop: FakeLoop) -> None:
    accounts, connection = _accounts(loop), FakeConnection()
    accounts.add(connection)
    loop.advance(HEAD_SECONDS - 0.01)
    assert not connection.is_dropped
    loop.advance(0.01)
    assert connection.is_dropped
    assert len(accounts) == 0
    assert not loop.timers


def test_a_byte_now_and_then_buys_no_time(loop: FakeLoop) -> None:
    accounts, connection = _accounts(loop), FakeConnection()
    accounts.add(connection)
    for _ in range(5):
        loop.advance(HEAD_SECONDS / 5)
        accounts.expect(connection)
    assert connection.is_dropped


def test_who_has_sent_a_request_stays_until_it_owes_the_next(loop: FakeLoop) -> None:
    accounts, connection = _accounts(loop), FakeConnection()
    accounts.add(connection)
    accounts.settle(connection)
    loop.advance(HEAD_SECONDS * 3)
    assert not connection.is_dropped
    accounts.expect(connection)
    loop.advance(HEAD_SECONDS)
    assert connection.is_dropped


@given(pauses=st.lists(st.floats(0, HEAD_SECONDS * 2), min_size=1, max_size=20))
def test_each_is_dropped_at_its_own_time(pauses: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        loop = FakeLoop()
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        accounts = _accounts(loop, most=100)
        began: list[tuple[float, FakeConnection]] = []
        for pause in pauses:
            connection = FakeConnection()
            accounts.add(connection)
            began.append((loop.now, connection))
            loop.advance(pause)
            for begin, other in began:
                assert other.is_dropped == (begin + HEAD_SECONDS <= loop.now)
        assert len(loop.timers) <= 1


def test_of_too_many_the_one_that_owes_longest_gives_way(loop: FakeLoop) -> None:
    accounts = _accounts(loop, most=3)
    answered, first, second, new = (FakeConnection() for _ in range(4))
    for connection in (answered, first, second):
        accounts.add(connection)
    accounts.settle(answered)
    accounts.add(new)
    assert [c.is_dropped for c in (answered, first, second, new)] == [False, True, False, False]
    assert len(accounts) == 3


def test_where_none_owes_an_idle_one_gives_way_and_none_that_is_answered(loop: FakeLoop) -> None:
    accounts = _accounts(loop, most=2)
    busy, idle, new = (FakeConnection() for _ in range(3))
    busy.idle = False
    for connection in (busy, idle):
        accounts.add(connection)
        accounts.settle(connection)
    accounts.add(new)
    assert (busy.is_dropped, idle.is_dropped, new.is_dropped) == (False, True, False)


def test_where_all_are_answered_the_new_one_gives_way(loop: FakeLoop) -> None:
    accounts = _accounts(loop, most=1)
    busy, new = FakeConnection(), FakeConnection()
    busy.idle = False
    accounts.add(busy)
    accounts.settle(busy)
    accounts.add(new)
    assert (busy.is_dropped, new.is_dropped) == (False, True)
    assert len(accounts) == 1


@pytest.mark.parametrize(("limit", "most"), [(1024, 960), (2000, 1936), (4096, 2048), (resource.RLIM_INFINITY, 2048)])
def test_there_are_descriptors_for_all(monkeypatch: pytest.MonkeyPatch, limit: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, resource.RLIM_INFINITY))
    assert most_connections() == most
