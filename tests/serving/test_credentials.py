"""Answers that wait for their credentials: one call of the source for all, and the reason where there are none."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hwsigner.errors import ServiceError
from hwsigner.serving.credentials import Replies
from hwsigner.serving.responses import Refusal


class Source:
    """Never has a reply at once; fails when it is asked for one, with the number of the call."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_fail = threading.Semaphore(0)

    def read(self, name: str) -> None:
        return None

    def reply(self, name: str) -> bytes:
        self.calls += 1
        assert self.may_fail.acquire(timeout=20)
        raise ServiceError(f"failure {self.calls}")


async def reason(replies: Replies) -> str:
    with pytest.raises(Refusal) as refused:
        await replies.wait()
    return refused.value.reason


def test_who_waited_is_told_what_that_call_met_and_not_that_the_next_is_under_way() -> None:
    source = Source()

    async def ask() -> tuple[list[str], str]:
        replies = Replies(source, "container", "web")

        async def twice() -> list[str]:
            first = await reason(replies)
            source.may_fail.release()
            return [first, await reason(replies)]

        impatient, other = asyncio.ensure_future(twice()), asyncio.ensure_future(reason(replies))
        await asyncio.sleep(0)
        source.may_fail.release()
        return await impatient, await other

    failures = [f"no credentials for web: failure {number}" for number in (1, 2)]
    assert asyncio.run(ask()) == (failures, failures[0])
