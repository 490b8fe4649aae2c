"""The schedule: what may be given, when the next session is created, and the pause after a failure."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.refresh.schedule import POLICY, Lease, Policy, until_refresh

QUARTER = 900
CHANCES = st.floats(0, 1, exclude_max=True)
LIVES = st.integers(QUARTER, 43200)
TIMES = st.floats(0, 1e9)


def ahead(chance: float) -> float:
    return POLICY.lease(0, 3600, lambda: chance).ahead


class TestLease:
    @pytest.mark.parametrize(
        ("life", "margin", "earliest"),
        [(900, 300, 600), (1800, 600, 1200), (2880, 960, 1920), (3600, 960, 2280), (43200, 960, 22080)],
    )
    def test_of_usual_lives(self, life: int, margin: float, earliest: float) -> None:
        latest, first = POLICY.lease(5000, life, lambda: 0.0), POLICY.lease(5000, life, lambda: 1.0)
        assert latest == Lease(5000 + life, margin, margin)
        assert first == Lease(5000 + life, margin, earliest)

    @given(life=LIVES, chance=CHANCES, now=TIMES)
    def test_a_resident_comes_before_anybody_has_to_wait(self, life: int, chance: float, now: float) -> None:
        lease = POLICY.lease(now, life, lambda: chance)
        assert lease.margin <= lease.ahead <= life
        # A session is used for a third of its life at least: refreshing must not become a stream of requests.
        assert life - lease.ahead >= life / 3 - 1e-6
        # More than 15 minutes are left, where the session has them to spare; else most of what can be had.
        assert lease.margin >= min(QUARTER, life / 3) - 1e-6

    @given(chances=st.tuples(CHANCES, CHANCES))
    def test_chance_decides_when(self, chances: tuple[float, float]) -> None:
        one, other = map(ahead, chances)
        assert (one < other) == (chances[0] < chances[1] and one != other)
        assert abs(one - other) == pytest.approx(1320 * abs(chances[0] - chances[1]), abs=1e-6)

    @given(left=st.floats(-1e6, 1e6) | st.sampled_from([960.0, 1500.0]))
    def test_due(self, left: float) -> None:
        lease = Lease(3600, 960, 1500)
        assert lease.is_due(left) == (left <= 960)
        assert lease.is_due_ahead(left) == (left <= 1500)

    @given(now=st.floats(0, 7200), by_wall=st.floats(-1e6, 1e6))
    def test_the_clock_that_leaves_less_counts(self, now: float, by_wall: float) -> None:
        left = Lease(3600, 960, 1500).left(now, by_wall)
        assert left == min(3600 - now, by_wall)


class TestPause:
    @pytest.mark.parametrize(
        ("failures", "longest"), [(1, 1), (2, 2), (3, 4), (7, 64), (8, 120), (9, 120), (5000, 120)]
    )
    def test_doubles_to_two_minutes(self, failures: int, longest: float) -> None:
        assert POLICY.pause(failures, lambda: 0.0) == longest
        assert POLICY.pause(failures, lambda: 1.0) == longest / 2

    @pytest.mark.parametrize(("asked", "first"), [(0, 0), (7.0, 7), (900, 900), (901, 900), (1e9, 900)])
    def test_begins_when_what_the_service_asks_for_has_passed(self, asked: float, first: float) -> None:
        assert POLICY.pause(1, lambda: 0.0, asked=asked) == first + 1
        assert POLICY.pause(3, lambda: 1.0, asked=asked) == first + 2

    @given(failures=st.integers(1, 10**6), chance=CHANCES)
    def test_is_never_nothing(self, failures: int, chance: float) -> None:
        policy = Policy(first_pause=3, longest_pause=300, jitter=0.25)
        assert 0.75 * 3 <= policy.pause(failures, lambda: chance) <= 300


class TestPostponed:
    @given(left=st.floats(-1e4, 4e4), ahead=st.floats(960, 3e4), chance=CHANCES)
    def test_who_has_time_lets_others_go_first(self, left: float, ahead: float, chance: float) -> None:
        lease = Lease(50000, 960, ahead)
        postponed = POLICY.postponed(lease, left, lambda: chance)
        assert (postponed.end, postponed.margin) == (lease.end, lease.margin)
        assert 960 <= postponed.ahead <= ahead
        if 960 < left <= ahead:
            # A quarter of the time until the margin passes at least, and half of it at most.
            assert left - (left - 960) / 2 - 1e-6 <= postponed.ahead <= left - (left - 960) / 4 + 1e-6

    @given(left=st.floats(-1e4, 960), chance=CHANCES)
    def test_who_has_none_does_not_wait_for_it(self, left: float, chance: float) -> None:
        assert POLICY.postponed(Lease(50000, 960, 960), left, lambda: chance).is_due_ahead(left)


class TestUntilRefresh:
    def test_without_a_session(self) -> None:
        assert until_refresh(None, 0, next_try=-math.inf, now=50) == 0
        assert until_refresh(None, 0, next_try=70, now=50) == 20
        assert until_refresh(None, 0, next_try=math.inf, now=50) == math.inf

    @given(left=st.floats(-1e5, 1e5), next_try=st.floats(0, 1e5) | st.just(-math.inf), now=st.floats(0, 1e5))
    def test_neither_before_it_is_due_nor_before_it_may(self, left: float, next_try: float, now: float) -> None:
        lease = Lease(now + left, 960, 1500)
        wait = until_refresh(lease, left, next_try=next_try, now=now)
        assert wait >= 0
        assert lease.is_due_ahead(left - wait - 1e-3)
        assert now + wait >= next_try - 1e-3
        if wait > 0:
            assert not lease.is_due_ahead(left) or now < next_try
