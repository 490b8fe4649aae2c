"""How many reviews an address may cause, and what is kept of all addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from hwsigner._serving.connections import MAX_CONNECTIONS
from hwsigner._serving.pods.limits import (
    BURST,
    MAX_ADDRESSES,
    MAX_ALL_WAITING,
    MAX_REVIEWS,
    MAX_WAITING,
    OTHERS_TURNS,
    OWN_TURNS,
    PER_SECOND,
    ClientShare,
    ClientShares,
    Turns,
)
from hwsigner._serving.pods.refusals import VerifierRefusal
from serving.pods.verifying import Ticking


@contextmanager
def charged(shares: ClientShares, address: str) -> Iterator[None]:
    with shares.joined(address) as share:
        share.charge()
        yield


def count(shares: ClientShares, address: str) -> int:
    """Return how many reviews an address gets now."""
    for number in range(10_000):
        try:
            with charged(shares, address):
                pass
        except VerifierRefusal:
            return number
    raise AssertionError("there is no limit")


def test_share_fills_again_with_time() -> None:
    clock = Ticking()
    shares = ClientShares(clock)
    assert count(shares, "10.0.0.1") == BURST
    clock.now += 1
    assert count(shares, "10.0.0.1") == PER_SECOND
    clock.now += 1e6
    assert count(shares, "10.0.0.1") == BURST


@pytest.mark.parametrize("other", ["10.0.0.2", "fd00::2", "fd00::1:1"])
def test_other_address_has_a_share_of_its_own(other: str) -> None:
    clock = Ticking()
    shares = ClientShares(clock)
    assert count(shares, "fd00::1") == BURST
    assert count(shares, other) == BURST


def test_addresses_are_bounded_and_those_that_wait_stay() -> None:
    shares = ClientShares(Ticking())
    with ExitStack() as waiting:
        for number in range(10):
            waiting.enter_context(charged(shares, f"waits {number}"))
        for number in range(MAX_ADDRESSES * 2):
            with charged(shares, f"{number}"):
                pass
        assert len(shares._shares) == MAX_ADDRESSES
        assert {f"waits {number}" for number in range(10)} <= shares._shares.keys()


def test_half_of_the_connections_are_left_for_known_tokens_when_all_reviews_hang() -> None:
    assert MAX_ALL_WAITING <= MAX_CONNECTIONS / 2
    shares = ClientShares(Ticking())
    with ExitStack() as waiting:
        for number in range(MAX_ALL_WAITING):
            waiting.enter_context(shares.joined(f"10.0.0.{number // MAX_WAITING}"))
        with pytest.raises(VerifierRefusal) as error, shares.joined("10.0.0.99"):
            pass
        assert (error.value.status, error.value.headers) == (429, {b"retry-after": b"1"})
    with shares.joined("10.0.0.99"):
        pass


def test_new_address_finds_room_while_almost_all_others_wait() -> None:
    assert 2 * MAX_ALL_WAITING <= MAX_ADDRESSES  # Requests, and reviews whose requests have left.
    shares = ClientShares(Ticking())
    with ExitStack() as waiting:
        for number in range(MAX_ALL_WAITING - 1):
            waiting.enter_context(shares.joined(f"{number}"))
        for number in range(3):
            with charged(shares, f"new {number}"):
                pass
        assert len(shares._shares) <= MAX_ADDRESSES


class Waiting:
    """Reviews that wait for a turn, and hold it until they are told to end."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.ends = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, share: ClientShare, number: int) -> None:
        self.tasks += [asyncio.ensure_future(self._hold(share)) for _ in range(number)]
        for _ in range(3):
            await asyncio.sleep(0)

    async def _hold(self, share: ClientShare) -> None:
        async with self.turns.taken(share, 60):
            await self.ends.wait()


def test_an_address_has_all_turns_but_the_last_ones_and_others_get_those() -> None:
    async def run() -> list[int]:
        waiting, first, *others = Waiting(), *(ClientShare(Ticking()) for _ in range(1 + OTHERS_TURNS // OWN_TURNS))
        for share in (first, *others):
            await waiting.begin(share, 100)
        return [first.turns, *(one.turns for one in others)]

    first, *others = asyncio.run(run())
    assert first == MAX_REVIEWS - OTHERS_TURNS
    assert set(others) == {OWN_TURNS}


def test_free_turn_goes_to_the_address_that_has_fewest() -> None:
    async def run() -> tuple[int, int]:
        waiting, many, few = Waiting(), ClientShare(Ticking()), ClientShare(Ticking())
        await waiting.begin(many, MAX_WAITING)
        await waiting.begin(few, MAX_REVIEWS)
        for _ in range(MAX_REVIEWS):  # The oldest end, one after another.
            waiting.tasks.pop(0).cancel()
            await asyncio.sleep(0.001)
        return many.turns, few.turns

    half = (MAX_REVIEWS - OTHERS_TURNS) // 2
    assert asyncio.run(run()) == (half, half)


def test_turns_are_all_free_once_their_reviews_have_ended_or_left() -> None:
    async def run() -> None:
        waiting, share = Waiting(), ClientShare(Ticking())
        await waiting.begin(share, MAX_WAITING)
        with pytest.raises(VerifierRefusal):
            async with waiting.turns.taken(share, 60):
                pass
        for task in waiting.tasks[::2]:
            task.cancel()
        waiting.ends.set()
        await asyncio.wait(waiting.tasks)
        assert (share.turns, share.reviews, waiting.turns._free, waiting.turns._waiting) == (0, 0, MAX_REVIEWS, [])

    asyncio.run(run())
