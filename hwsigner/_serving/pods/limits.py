"""How many reviews a client may cause: each address has a share, so that a hostile client does not block others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus

from hwsigner._serving.pods.refusals import VerifierRefusal

# What an address has to spend, at most and each second. A review costs 1, or REFUSED_COST if the token is bad. All Pods
# of a node, some 250, may have the node's address, and ask at once after a restart.
BURST = 250.0
PER_SECOND = 10.0
REFUSED_COST = 10.0
# Requests of an address that wait for a review, and its reviews. A review goes on when its requests have left.
MAX_WAITING = 250
# Requests of all addresses that wait: half of the connections. The others are for tokens that are known. Reviews too.
MAX_ALL_WAITING = 1024
# As many as may have requests or reviews: so the share of an address without them can always make room.
MAX_ADDRESSES = 2 * MAX_ALL_WAITING
# Reviews at a time. The last ones are for addresses that have fewer than OWN_TURNS: the API server may be slow, and
# forged tokens of another address have all the other turns.
MAX_REVIEWS = 32
OTHERS_TURNS = 8
OWN_TURNS = 2


class ClientShare:
    """What a client may ask now: how many of its requests wait, its reviews, and those of them that have a turn."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.requests = self.reviews = self.turns = 0
        self._clock = clock
        self._left = BURST
        self._since = clock()

    @property
    def is_busy(self) -> bool:
        """Whether a request waits, or a review."""
        return bool(self.requests or self.reviews)

    def charge(self) -> None:
        """Let the client pay for a review. If it has not enough left, this is a VerifierRefusal of status 429."""
        now = self._clock()
        self._left = min(BURST, self._left + (now - self._since) * PER_SECOND)
        self._since = now
        if self._left < 1:
            raise _too_many("too many tokens came from this address", (1 - self._left) / PER_SECOND)
        self._left -= 1

    def fine(self, cost: float) -> None:
        """Let the client pay, whether or not it has enough left."""
        self._left = max(-BURST, self._left - cost)


class ClientShares:
    """The shares of all clients, by address. For one thread.

    An IPv6 address counts whole: the Pods of a node usually have the same /64.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting = 0
        self._shares: dict[str, ClientShare] = {}  # The one that asked last is last.

    @contextmanager
    def joined(self, address: str) -> Iterator[ClientShare]:
        """Count a request while it waits, and yield the share of its client.

        If too many wait, this is a VerifierRefusal of status 429.
        """
        if self._waiting >= MAX_ALL_WAITING:
            raise _too_many("too many requests wait", 1.0)
        share = self._share(address)
        if share.requests >= MAX_WAITING:
            raise _too_many("too many requests of this address wait", 1.0)
        share.requests += 1
        self._waiting += 1
        try:
            yield share
        finally:
            share.requests -= 1
            self._waiting -= 1

    def _share(self, address: str) -> ClientShare:
        """Return the share of an address. If there are too many, the one that was used longest ago is forgotten."""
        share = self._shares.pop(address, None) or ClientShare(self._clock)
        if len(self._shares) >= MAX_ADDRESSES:
            del self._shares[next(one for one, other in self._shares.items() if not other.is_busy)]
        self._shares[address] = share
        return share


class Turns:
    """The turns of reviews. A free one goes to the waiting address that has fewest. For one thread.

    An address may have all turns for which no other address waits, but the last ones.
    """

    def __init__(self) -> None:
        self._reviews = 0
        self._free = MAX_REVIEWS
        self._waiting: list[tuple[ClientShare, asyncio.Future[None]]] = []  # The oldest first.

    @asynccontextmanager
    async def taken(self, share: ClientShare, seconds: float) -> AsyncIterator[None]:
        """Wait for a turn, at most some seconds, and hold it. Without one, this is a TimeoutError.

        If too many wait, this is a VerifierRefusal of status 429.
        """
        if share.reviews >= MAX_WAITING or self._reviews >= MAX_ALL_WAITING:
            raise _too_many("too many tokens wait", 1.0)
        turn = asyncio.get_running_loop().create_future()
        share.reviews += 1
        self._reviews += 1
        self._waiting.append((share, turn))
        self._give()
        try:
            await asyncio.wait([turn], timeout=seconds)
            if not turn.done():
                raise TimeoutError
            yield
        finally:
            share.reviews -= 1
            self._reviews -= 1
            if turn.done():
                share.turns -= 1
                self._free += 1
                self._give()
            else:
                self._waiting.remove((share, turn))

    def _give(self) -> None:
        """Give the free turns to those that wait."""
        while self._free and self._waiting:
            share, turn = first = min(self._waiting, key=lambda one: one[0].turns)
            if self._free <= OTHERS_TURNS and share.turns >= OWN_TURNS:
                return
            self._waiting.remove(first)
            self._free -= 1
            share.turns += 1
            turn.set_result(None)


def _too_many(reason: str, seconds: float) -> VerifierRefusal:
    return VerifierRefusal(HTTPStatus.TOO_MANY_REQUESTS, reason, seconds=seconds)
