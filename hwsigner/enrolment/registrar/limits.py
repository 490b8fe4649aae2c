"""How many requests are answered: a bucket of tokens for each address and one for all."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_MOST_BUCKETS = 10_000
_MINUTE = 60.0
_IPV6_PREFIX = 64  # One host has as many addresses of such a network as it likes.


@dataclass
class _Bucket:
    tokens: float
    time: float


class RateLimit:
    """A limit of requests in a minute: of one address, or IPv6 network of 64 bits, and of all. Thread-safe.

    A full bucket has the requests of one minute.
    """

    def __init__(self, per_address: int, in_all: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_address = per_address
        self._in_all = in_all
        self._clock = clock
        self._lock = threading.Lock()
        self._all = _Bucket(in_all, clock())
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # That of the latest request last.

    def wait_for(self, address: str) -> float:
        """Take a token; return 0.0, or in how many seconds there will be one."""
        with self._lock:
            name = network(address)
            bucket = self._buckets.setdefault(name, _Bucket(self._per_address, self._clock()))
            self._buckets.move_to_end(name)
            while len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
            buckets = ((bucket, self._per_address), (self._all, self._in_all))
            wait = max(self._wait(one, most) for one, most in buckets)
            if wait == 0.0:
                for one, _ in buckets:
                    one.tokens -= 1.0
            return wait

    def _wait(self, bucket: _Bucket, most: int) -> float:
        now, rate = self._clock(), most / _MINUTE
        bucket.tokens = min(most, bucket.tokens + (now - bucket.time) * rate)
        bucket.time = now
        return 0.0 if bucket.tokens >= 1.0 else (1.0 - bucket.tokens) / rate


def network(address: str) -> str:
    """Return what requests are counted by: an IPv4 address, or the /64 network of an IPv6 address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
