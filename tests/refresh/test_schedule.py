"""The schedule: when a session is replaced, and the pause after a failure."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._refresh.schedule import SESSION_TIMING, Lifetime, Timing, renewal_pause, until_refresh

QUARTER = 900
CHANCES = st.floats(0, 1, exclude_max=True)
LIVES = st.integers(QUARTER, 43200)
TIMES = st.floats(0, 1e9)


def ahead(chance: float) -> float:
    return SESSION_TIMING.lifetime(0, 3600, lambda: chance).ahead


class TestLifetime:
    @pytest.mark.parametrize(
        ("life", "margin", "earliest"),
        [(900, 300, 600), (1800, 600, 1200), (2880, 960, 1920), (3600, 960, 2280), (43200, 960, 22080)],
    )
    def test_lifetime_follows_from_the_session_s_life(self, life: int, margin: float, earliest: float) -> None:
        latest, first = (
            SESSION_TIMING.lifetime(5000, life, lambda: 0.0),
            SESSION_TIMING.lifetime(5000, life, lambda: 1.0),
        )
        assert latest == Lifetime(5000 + life, margin, margin)
        assert first == Lifetime(5000 + life, margin, earliest)

    @given(life=LIVES, chance=CHANCES, now=TIMES)
    def test_background_provider_refreshes_before_a_caller_has_to(self, life: int, chance: float, now: float) -> None:
        lifetime = SESSION_TIMING.lifetime(now, life, lambda: chance)
        assert lifetime.margin <= lifetime.ahead <= life
        # A session is used for at least a third of its life: refreshing must not become a stream of requests.
        assert life - lifetime.ahead >= life / 3 - 1e-6
        # More than 15 minutes are left if the session is long enough, else a third of its life.
        assert lifetime.margin >= min(QUARTER, life / 3) - 1e-6

    @given(chances=st.tuples(CHANCES, CHANCES))
    def test_chance_decides_the_moment(self, chances: tuple[float, float]) -> None:
        one, other = map(ahead, chances)
        assert (one < other) == (chances[0] < chances[1] and one != other)
        assert abs(one - other) == pytest.approx(1320 * abs(chances[0] - chances[1]), abs=1e-6)

    @given(left=st.floats(-1e6, 1e6) | st.sampled_from([960.0, 1500.0]))
    def test_session_is_due_at_its_margin_and_ahead_of_it(self, left: float) -> None:
        lifetime = Lifetime(3600, 960, 1500)
        assert lifetime.is_due(left) == (left <= 960)
        assert lifetime.is_due_ahead(left) == (left <= 1500)


class TestPause:
    @pytest.mark.parametrize(
        ("failures", "longest"), [(1, 1), (2, 2), (3, 4), (7, 64), (8, 120), (9, 120), (5000, 120)]
    )
    def test_pause_doubles_to_two_minutes(self, failures: int, longest: float) -> None:
        assert SESSION_TIMING.pause(failures, lambda: 0.0) == longest
        assert SESSION_TIMING.pause(failures, lambda: 1.0) == longest / 2

    @pytest.mark.parametrize(("asked", "first"), [(0, 0), (7.0, 7), (900, 900), (901, 900), (1e9, 900)])
    def test_pause_begins_after_what_the_service_asks_for(self, asked: float, first: float) -> None:
        assert SESSION_TIMING.pause(1, lambda: 0.0, asked=asked) == first + 1
        assert SESSION_TIMING.pause(3, lambda: 1.0, asked=asked) == first + 2

    @given(failures=st.integers(1, 10**6), chance=CHANCES)
    def test_pause_is_never_zero(self, failures: int, chance: float) -> None:
        policy = Timing(first_pause=3, longest_pause=300, jitter=0.25)
        assert 0.75 * 3 <= policy.pause(failures, lambda: chance) <= 300


class TestPostponed:
    @given(left=st.floats(-1e4, 4e4), ahead=st.floats(960, 3e4), chance=CHANCES)
    def test_provider_with_more_time_left_waits_longer(self, left: float, ahead: float, chance: float) -> None:
        lifetime = Lifetime(50000, 960, ahead)
        postponed = SESSION_TIMING.postponed(lifetime, left, lambda: chance)
        assert (postponed.end, postponed.margin) == (lifetime.end, lifetime.margin)
        assert 960 <= postponed.ahead <= ahead
        if 960 < left <= ahead:
            # Between a quarter and half of the time until the margin passes.
            assert left - (left - 960) / 2 - 1e-6 <= postponed.ahead <= left - (left - 960) / 4 + 1e-6

    @given(left=st.floats(-1e4, 960), chance=CHANCES)
    def test_provider_with_no_time_left_does_not_wait(self, left: float, chance: float) -> None:
        assert SESSION_TIMING.postponed(Lifetime(50000, 960, 960), left, lambda: chance).is_due_ahead(left)


class TestUntilRefresh:
    def test_provider_without_a_session_refreshes_when_an_attempt_is_allowed(self) -> None:
        assert until_refresh(None, 0, next_try=-math.inf, now=50) == 0
        assert until_refresh(None, 0, next_try=70, now=50) == 20
        assert until_refresh(None, 0, next_try=math.inf, now=50) == math.inf

    @given(left=st.floats(-1e5, 1e5), next_try=st.floats(0, 1e5) | st.just(-math.inf), now=st.floats(0, 1e5))
    def test_refresh_comes_neither_before_it_is_due_nor_before_an_attempt_is_allowed(
        self, left: float, next_try: float, now: float
    ) -> None:
        lifetime = Lifetime(now + left, 960, 1500)
        wait = until_refresh(lifetime, left, next_try=next_try, now=now)
        assert wait >= 0
        assert lifetime.is_due_ahead(left - wait - 1e-3)
        assert now + wait >= next_try - 1e-3
        if wait > 0:
            assert not lifetime.is_due_ahead(left) or now < next_try


@given(pause=st.floats(0, 90000), left=st.floats(-1e6, 1e6))
def test_pause_is_no_longer_than_an_eighth_of_what_is_left_unless_that_is_under_ten_seconds(
    pause: float, left: float
) -> None:
    assert renewal_pause(pause, left) == min(pause, max(10, abs(left) / 8))
