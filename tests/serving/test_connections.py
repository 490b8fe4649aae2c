"""The limits of connections: their number, the time without a request, and the memory after them."""

from __future__ import annotations

import asyncio
import resource
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._serving import connections as module
from hwsigner._serving.application import Application
from hwsigner._serving.connections import Connections, most_connections
from hwsigner._serving.protocol import ClientConnection
from hwsigner._serving.responses import HTTPRefusal, HTTPResponse

HEAD_SECONDS, IDLE_SECONDS = Connections.HEAD_SECONDS, Connections.IDLE_SECONDS


class FakeConnection:
    def __init__(self) -> None:
        self.is_dropped = False
        self.is_ended = False
        self.refused: list[HTTPStatus] = []

    def drop(self) -> None:
        self.is_dropped = True

    def end(self) -> None:
        self.is_ended = True

    def refuse(self, refusal: HTTPRefusal) -> None:
        self.refused.append(refusal.status)


class Accounts(Connections):
    """Connections with a clock that a test sets, which looks by itself at no time."""

    def __init__(self, most: int = 10) -> None:
        self.now = 100.0
        super().__init__(most, lambda: self.now)

    def _look_later(self) -> None:
        pass

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.drop_late()


def test_silent_connection_is_dropped_in_time() -> None:
    accounts, connection = Accounts(), FakeConnection()
    accounts.add(connection)
    accounts.advance(HEAD_SECONDS - 0.01)
    assert not connection.is_dropped
    accounts.advance(0.01)
    assert connection.is_dropped
    assert len(accounts) == 0


def test_dripped_bytes_do_not_extend_the_time() -> None:
    accounts, connection = Accounts(), FakeConnection()
    accounts.add(connection)
    for _ in range(5):
        accounts.advance(HEAD_SECONDS / 5)
        accounts.receive(connection)
    assert connection.is_dropped


def test_connection_stays_while_it_is_answered_and_is_dropped_when_idle() -> None:
    accounts, connection = Accounts(), FakeConnection()
    accounts.add(connection)
    accounts.answer(connection)
    accounts.advance(IDLE_SECONDS * 3)
    accounts.rest(connection)
    accounts.advance(IDLE_SECONDS - 0.01)
    assert not connection.is_dropped
    accounts.advance(0.01)
    assert connection.is_dropped


def test_further_request_has_its_own_time() -> None:
    accounts, connection = Accounts(), FakeConnection()
    accounts.add(connection)
    accounts.rest(connection)
    accounts.advance(HEAD_SECONDS * 3)
    accounts.receive(connection)
    accounts.advance(HEAD_SECONDS - 0.01)
    assert not connection.is_dropped
    accounts.advance(0.01)
    assert connection.is_dropped


@given(pauses=st.lists(st.floats(0, HEAD_SECONDS * 2), min_size=1, max_size=20))
def test_each_connection_is_dropped_at_its_own_time(pauses: list[float]) -> None:
    accounts = Accounts(100)
    began: list[tuple[float, FakeConnection]] = []
    for pause in pauses:
        connection = FakeConnection()
        accounts.add(connection)
        began.append((accounts.now, connection))
        accounts.advance(pause)
        for begin, other in began:
            assert other.is_dropped == (begin + HEAD_SECONDS <= accounts.now)


def test_connection_that_owes_a_request_for_longest_is_dropped_when_there_are_too_many() -> None:
    accounts = Accounts(most=3)
    answered, first, second, new = (FakeConnection() for _ in range(4))
    for connection in (answered, first, second):
        accounts.add(connection)
    accounts.rest(answered)
    accounts.add(new)
    assert [c.is_dropped for c in (answered, first, second, new)] == [False, True, False, False]
    assert len(accounts) == 3


def test_longest_idle_connection_is_dropped_when_none_owes_a_request() -> None:
    accounts = Accounts(most=3)
    busy, idle, used, new = (FakeConnection() for _ in range(4))
    for connection in (busy, used, idle):
        accounts.add(connection)
        accounts.rest(connection)
    accounts.answer(busy)
    accounts.rest(used)  # Again, later than the other.
    accounts.add(new)
    assert [c.is_dropped for c in (busy, idle, used, new)] == [False, True, False, False]


def test_new_connection_is_dropped_when_all_others_are_being_answered() -> None:
    accounts = Accounts(most=1)
    busy, new = FakeConnection(), FakeConnection()
    accounts.add(busy)
    accounts.answer(busy)
    accounts.add(new)
    assert (busy.is_dropped, new.is_dropped) == (False, True)
    assert len(accounts) == 1


@pytest.mark.parametrize(("limit", "most"), [(1024, 960), (2000, 1936), (4096, 2048), (resource.RLIM_INFINITY, 2048)])
def test_all_connections_have_descriptors(monkeypatch: pytest.MonkeyPatch, limit: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, resource.RLIM_INFINITY))
    assert most_connections() == most


def test_drain_ends_all_and_refuses_those_that_are_answered_too_late() -> None:
    accounts = Accounts()
    receiving, idle, busy, late = (FakeConnection() for _ in range(4))
    for connection in (receiving, idle, busy, late):
        accounts.add(connection)
    accounts.rest(idle)
    accounts.answer(busy)
    accounts.answer(late)

    async def drain() -> None:
        draining = asyncio.ensure_future(accounts.drain(2.0))
        await asyncio.sleep(0)
        accounts.remove(busy)  # It has been answered.
        accounts.now += 2.0
        await draining

    asyncio.run(drain())
    assert all(connection.is_ended for connection in (receiving, idle, busy, late))
    assert (busy.refused, late.refused) == ([], [HTTPStatus.SERVICE_UNAVAILABLE])


def test_memory_is_returned_once_after_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[int] = []
    accounts = Accounts(1000)
    monkeypatch.setattr(module, "return_free", lambda: returned.append(len(accounts)))
    burst = [FakeConnection() for _ in range(200)]
    for connection in burst:
        accounts.add(connection)
    for left in (150, 99, 50, 1):
        for connection in burst[left:]:
            accounts.remove(connection)
        accounts._look()
    assert returned == [99]


def test_request_whose_client_leaves_is_not_waited_for() -> None:
    ended = asyncio.Event()

    async def wait() -> HTTPResponse:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    async def leave() -> None:
        application = Application(None, lambda _: None)
        application.add_handler("/", lambda headers, peer: wait())
        connections = Connections(10)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: ClientConnection(application, connections), "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while not connections._busy:
                await asyncio.sleep(0.01)
            writer.close()
            await ended.wait()
            assert len(connections) == 0

    asyncio.run(leave())
