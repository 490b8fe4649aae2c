"""The simulated fleet keeps its promises, and its providers act as real ones do."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from datetime import timedelta

import pytest

from bench import fleet_plot
from bench.fleet import (
    HOUR,
    MINUTE,
    Fleet,
    History,
    SimulatedProvider,
    Simulation,
    cold_start,
    outage,
    renewals,
    steady,
)
from hwsigner._aws.create_session import SessionRequest, find_service
from hwsigner._aws.credentials import Credentials
from hwsigner._identity import IdentitySource
from hwsigner._refresh import reopening
from hwsigner._refresh.provider import BackgroundProvider, Provider
from hwsigner._refresh.schedule import SESSION_TIMING
from hwsigner.errors import ServiceError
from stage import FakeClock

# A tenth of the fleet in docs/how-it-works/fleet.md.
# LEAST is how many seconds a request of each takes at the quota's pace.
SMALL = Fleet(providers=1000, quota=1.0)
LEAST = SMALL.providers / SMALL.quota


def last_wait(history: History) -> float:
    assert history.dry == 0
    return max(end for end, _ in history.waits)


@pytest.mark.slow
def test_steady_fleet_always_has_credentials() -> None:
    history = steady(SMALL)
    assert history.waits == []
    assert history.dry == 0
    sent = history.requests.total()
    assert sent / 24 / HOUR == pytest.approx(SMALL.providers / 1980, rel=0.05)
    assert sent - history.granted.total() < 0.001 * sent


def test_cold_start_takes_little_more_than_the_quota_demands() -> None:
    history = cold_start(SMALL)
    assert last_wait(history) < 1.25 * LEAST
    drain = history.rates(history.requests, 0, 1.25 * LEAST)
    assert 1 <= sum(drain) * MINUTE / SMALL.providers < 18


def test_sessions_that_began_together_are_refreshed_apart() -> None:
    history = cold_start(SMALL)
    assert max(history.rates(history.requests, 1.25 * LEAST, 6 * HOUR)) <= 1.1 * SMALL.quota
    herd = cold_start(replace(SMALL, timing=replace(SESSION_TIMING, spread=0.1)))
    assert max(herd.rates(herd.requests, 1.25 * LEAST, 6 * HOUR)) > 1.5 * SMALL.quota


@pytest.mark.slow
def test_backlog_of_an_outage_drains() -> None:
    history = outage(SMALL)
    assert last_wait(history) - 2 * HOUR < 1.25 * LEAST
    meanwhile = history.rates(history.requests, HOUR, 2 * HOUR)
    assert max(meanwhile) < 2 * SMALL.providers / SESSION_TIMING.longest_pause


def test_short_outage_leaves_no_provider_without_credentials() -> None:
    history = outage(SMALL, 4, minutes=5)
    assert history.waits == []
    assert history.dry == 0


def test_pauses_without_jitter_make_a_cold_start_too_long() -> None:
    history = cold_start(replace(SMALL, timing=replace(SESSION_TIMING, jitter=0.0)), 3)
    assert history.dry or last_wait(history) > 1.5 * LEAST


@pytest.mark.parametrize(("days", "down_hours"), [(1, 0), (1, 5), (7, 24), (90, 48)])
def test_certificates_that_were_issued_together_are_renewed_apart_and_none_expires(
    days: float, down_hours: float
) -> None:
    history, begin, end = renewals(days, down_hours, fleet=SMALL)
    assert not [when for when, _ in history.waits if when > HOUR + LEAST]
    assert history.dry == 0
    sent = history.rates(history.requests, begin + down_hours * HOUR, end)
    assert max(sent) <= SMALL.quota


@pytest.mark.parametrize("chance", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("life", [900, 3600])
def test_simulated_provider_makes_its_attempts_when_a_real_one_does(
    monkeypatch: pytest.MonkeyPatch, chance: float, life: int
) -> None:
    down = (1.5 * HOUR, 3.2 * HOUR)
    monkeypatch.setattr("random.random", lambda: chance)
    clock, tries = FakeClock(), list[float]()

    def create(*_: object, **__: object) -> Credentials:
        tries.append(clock.elapsed)
        if down[0] <= clock.elapsed < down[1]:
            raise ServiceError("the service is down")
        return Credentials("AKIA", "secret", "token", clock.true() + timedelta(seconds=life), "role", "assumed")

    monkeypatch.setattr("hwsigner._refresh.attempts.create_session", create)
    monkeypatch.setattr(reopening.ReopeningIdentity, "get", lambda *_: None)
    request, service = SessionRequest("ta", "p", "r", life), find_service("us-east-1", environ={})
    provider = Provider(IdentitySource("x"), request, service, now=clock.now, monotonic=clock.monotonic)
    live(BackgroundProvider(provider, formats={}), clock, 6 * HOUR)
    simulated = simulate(chance, life, down)
    assert len(tries) > 20
    assert len(tries) == len(simulated)
    assert tries == pytest.approx(simulated, abs=1)


def live(background: BackgroundProvider, clock: FakeClock, until: float) -> None:
    """Ask a background provider all the time, and do what its timer would."""
    background()
    while clock.elapsed < until:
        if background.status().left > 0:
            background()
        else:
            background.read("id")
        clock.advance(max(background._refresher.refresh_ahead(), 1e-6))


def simulate(chance: float, life: float, down: tuple[float, float]) -> list[float]:
    simulation = Simulation(Fleet(providers=1, life=life, first_requests=1), outage=down)
    times: list[float] = []
    request = simulation._request

    def note(now: float, provider: SimulatedProvider) -> float:
        times.append(now)
        return request(now, provider)

    simulation._request = note  # type: ignore[method-assign]
    simulation.random.random = lambda: chance  # type: ignore[method-assign]
    simulation.start_cold(seconds=0)
    simulation.run(6 * HOUR)
    return times


@pytest.mark.slow
def test_plot_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_plot, "Fleet", lambda **options: replace(SMALL, **options))
    root = ElementTree.fromstring(fleet_plot.draw())
    assert len(root.findall("{*}polyline")) == 8
