"""How many reviews a client may cause: each address has a share, so that a hostile client does not block others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from hwsigner._serving.pods.refusals import VerifierRefusal

# What an address has to spend, at most and each second. A review costs 1, or REFUSED_COST if the token is bad. All Pods
# of a node, some 250, may have the node's address, and ask at once after a restart.
BURST = 250.0
PER_SECOND = 10.0
REFUSED_COST = 10.0
# Requests of an address that wait for a review, and its reviews at a time.
MAX_WAITING = 250
MAX_TURNS = 2
# Requests of all addresses that wait: half of the connections. The others are for tokens that are known.
MAX_ALL_WAITING = 1024
# Not less than MAX_ALL_WAITING: so the share of an address without waiting requests can always make room.
MAX_ADDRESSES = 1024


class ClientShare:
    """What a client may ask now. Reviews hold `turns`. `requests` is how many of its requests wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.turns = asyncio.Semaphore(MAX_TURNS)
        self.requests = 0
        self._clock = clock
        self._left = BURST
        self._since = clock()

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
            del self._shares[next(one for one, other in self._shares.items() if not other.requests)]
        self._shares[address] = share
        return share


def _too_many(reason: str, seconds: float) -> VerifierRefusal:
    return VerifierRefusal(HTTPStatus.TOO_MANY_REQUESTS, reason, seconds=seconds)
