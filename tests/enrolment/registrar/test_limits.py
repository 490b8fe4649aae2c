"""The limit of requests: by address, by IPv6 network, and of all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.enrolment.registrar import limits
from hwsigner.enrolment.registrar.limits import RateLimit, network


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(limit: RateLimit, address: str, count: int) -> int:
    return sum(limit.wait_for(address) == 0.0 for _ in range(count))


def test_address_gets_its_requests_and_others_theirs() -> None:
    limit = RateLimit(6, 100, Clock())
    assert [taken(limit, address, 20) for address in ("192.0.2.1", "192.0.2.2")] == [6, 6]


def test_all_addresses_together_get_no_more_than_all() -> None:
    limit = RateLimit(6, 10, Clock())
    assert sum(taken(limit, f"192.0.2.{number}", 6) for number in range(20)) == 10


def test_refused_requests_of_one_address_take_nothing_from_others() -> None:
    limit = RateLimit(2, 10, Clock())
    taken(limit, "192.0.2.1", 1000)
    assert taken(limit, "192.0.2.2", 10) == 2


@given(st.integers(1, 1000), st.lists(st.floats(0, 50), max_size=60))
def test_no_address_gets_more_than_its_rate(per_minute: int, pauses: list[float]) -> None:
    clock = Clock()
    limit = RateLimit(per_minute, 10**6, clock)
    passed = taken(limit, "192.0.2.1", 20)
    for pause in pauses:
        clock.now += pause
        passed += taken(limit, "192.0.2.1", 20)
    assert passed <= per_minute + sum(pauses) * per_minute / 60 + 1e-6


@given(st.integers(1, 1000))
def test_request_passes_after_the_wait(per_minute: int) -> None:
    clock = Clock()
    limit = RateLimit(per_minute, 10**6, clock)
    taken(limit, "192.0.2.1", per_minute)
    clock.now += limit.wait_for("192.0.2.1") + 1e-6
    assert limit.wait_for("192.0.2.1") == 0.0


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_ipv6_hosts_are_counted_by_network(address: str, name: str) -> None:
    assert network(address) == name


def test_memory_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_BUCKETS", 10)
    limit = RateLimit(5, 10**6, Clock())
    for number in range(200):
        limit.wait_for(f"192.0.2.{number}")
    assert len(limit._buckets) == 10
