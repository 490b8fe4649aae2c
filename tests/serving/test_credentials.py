"""Responses that wait for credentials: one call of the source for all of them, with its reason if it fails."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest

from hwsigner._aws.credentials import Credentials
from hwsigner._serving.credentials import CredentialResponses, container_json, in_thread
from hwsigner._serving.peer import Peer
from hwsigner._serving.responses import HTTPRefusal, HTTPResponse
from hwsigner.errors import ServiceError

PEER = Peer(asyncio.BaseTransport())


def credentials_of(number: int) -> Credentials:
    return Credentials(f"ASIA{number}", "s", "t", datetime(2030, 1, 1, tzinfo=UTC), f"arn:{number}", "")


class Source:
    """Has no credentials, and fails with the number of the call."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_fail = threading.Semaphore(0)

    def at_once(self) -> Credentials | None:
        return None

    def __call__(self) -> Credentials:
        self.calls += 1
        assert self.may_fail.acquire(timeout=20)
        raise ServiceError(f"failure {self.calls}")


async def reason(credentials: CredentialResponses) -> str:
    waiting = credentials.respond(PEER)
    assert not isinstance(waiting, HTTPResponse)
    with pytest.raises(HTTPRefusal) as refused:
        await waiting
    return refused.value.reason


def test_waiting_request_gets_the_failure_of_its_own_call_when_the_next_has_begun() -> None:
    source = Source()

    async def ask() -> tuple[list[str], str]:
        credentials = CredentialResponses(source, container_json, "web")

        async def twice() -> list[str]:
            first = await reason(credentials)
            source.may_fail.release()
            return [first, await reason(credentials)]

        impatient, other = asyncio.ensure_future(twice()), asyncio.ensure_future(reason(credentials))
        await asyncio.sleep(0)
        source.may_fail.release()
        return await impatient, await other

    failures = [f"no credentials for web: failure {number}" for number in (1, 2)]
    assert asyncio.run(ask()) == (failures, failures[0])


def test_source_is_read_once_in_a_tenth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    class Ready(Source):
        def at_once(self) -> Credentials:
            self.calls += 1
            return credentials_of(self.calls)

    source = Ready()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    credentials = CredentialResponses(source, container_json, "web")
    bodies = []
    for moment in (100.0, 100.05, 100.125):
        now[0] = moment
        response = credentials.respond(PEER)
        assert isinstance(response, HTTPResponse)
        bodies.append(response.data.rpartition(b"arn:")[2])
    assert bodies == [b'1"}', b'1"}', b'2"}']


def test_call_that_ends_after_its_server_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    may_end = threading.Event()

    async def stop_waiting() -> None:
        call = asyncio.ensure_future(asyncio.wait_for(in_thread(may_end.wait), timeout=0.01))
        with pytest.raises(TimeoutError):
            await call

    asyncio.run(stop_waiting())
    thread = next(one for one in threading.enumerate() if one.name == "hwsigner-fetch")
    may_end.set()
    thread.join(20)
    assert errors == []


def test_request_that_can_have_no_thread_is_told_to_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    responses = CredentialResponses(Source(), container_json, "web")

    async def ask() -> None:
        response = responses.respond(PEER)
        assert not isinstance(response, HTTPResponse)
        await response

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(HTTPRefusal) as caught:
        asyncio.run(ask())
    assert (caught.value.status, caught.value.reason) == (503, "the system allows no more threads now")
