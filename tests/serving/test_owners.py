"""Looks at the kernel's tables, shared by all who wait for them: what fails, fails for each of these and no longer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from hwsigner.serving.peer import Address, Connection, Owners
from serving.conftest import run_server
from serving.connected import knows_nothing

CONNECTIONS = [Connection(Address("127.0.0.1", port), Address("127.0.0.1", 9911)) for port in range(1, 4)]


class Tables:
    """Can't be read at first."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def find(self, connections: Sequence[Connection]) -> list[int | None]:
        if self.failures:
            self.failures -= 1
            raise PermissionError(13, "Permission denied")
        return [one.client.port for one in connections]


def test_all_who_wait_are_told_and_the_next_look_is_a_new_one() -> None:
    owners = Owners(knows_nothing, Tables(failures=1).find)

    async def ask() -> list[int | BaseException | None]:
        asked = asyncio.gather(*map(owners.owner, CONNECTIONS), return_exceptions=True)
        return await asyncio.wait_for(asked, 20)

    async def ask_twice() -> tuple[list[int | BaseException | None], list[int | BaseException | None]]:
        return await ask(), await ask()

    first, second = asyncio.run(ask_twice())
    assert [type(one) for one in first] == [PermissionError] * 3
    assert second == [1, 2, 3]


def test_who_gives_up_takes_nothing_from_the_others() -> None:
    may_look = threading.Event()

    def find(connections: Sequence[Connection]) -> list[int | None]:
        assert may_look.wait(20)
        return [one.client.port for one in connections]

    async def ask() -> int | None:
        owners = Owners(knows_nothing, find)
        gone, stays = (asyncio.ensure_future(owners.owner(one)) for one in CONNECTIONS[:2])
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        may_look.set()
        return await asyncio.wait_for(stays, 20)

    assert asyncio.run(ask()) == 2


def test_a_request_is_refused_with_500_and_the_next_has_its_token() -> None:
    seconds = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    tables = Tables(failures=1)
    with run_server({0, *range(1024, 65536)}, owners=Owners(knows_nothing, tables.find)) as running:
        answers = []
        for _ in range(2):
            with running.client() as client:
                answers.append(client.ask("PUT", "/latest/api/token", seconds))
    assert [answer.status for answer in answers] == [500, 200]
    assert b"PermissionError" in answers[0].body
    assert len(running.log) == 1
