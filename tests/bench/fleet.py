"""A simulated fleet of background providers on one account, and how the service's quota limits it.

It drives `hwsigner._refresh.schedule`, which the providers run, with a clock of its own. A day of 10,000 providers
takes seconds.

    python tests/bench/fleet.py                        tables of candidates, in Markdown
    python tests/bench/fleet.py --plot docs/how-it-works/fleet.svg  and the plot
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from hwsigner._aws.create_session import _BACKOFF_BASE, _BACKOFF_CAP  # noqa: E402
from hwsigner._http.defaults import MAX_ATTEMPTS  # noqa: E402
from hwsigner._refresh.schedule import (  # noqa: E402
    RENEWAL_TIMING,
    SESSION_TIMING,
    Lifetime,
    Timing,
    renewal_pause,
    until_refresh,
)

MINUTE, HOUR = 60.0, 3600.0
BOOT_SECONDS = 10.0


@dataclass(frozen=True)
class Fleet:
    """A fleet and its account.

    Attributes:
        providers: how many providers; callers ask all of them all the time.
        life: the seconds of life of each session.
        quota: how many CreateSession requests the account has in each second.
        burst: how many of them it may save up.
        timing: when they refresh and retry.
        first_requests: how many requests the first attempt sends at most.
        later_requests: and each that follows a failure.
    """

    providers: int = 10_000
    life: float = HOUR
    quota: float = 10.0
    burst: float = 10.0
    timing: Timing = SESSION_TIMING
    first_requests: int = MAX_ATTEMPTS
    later_requests: int = 1


@dataclass
class SimulatedProvider:
    """A simulated provider: since when it has wanted a session, its session's lifetime, and its failures in a row."""

    wanting_since: float
    lifetime: Lifetime | None = None
    failures: int = 0
    requests: int = 0


@dataclass
class History:
    """What happened.

    Attributes:
        requests: how many requests were sent in each minute.
        granted: how many of them gave a session.
        waits: for each spell of a provider without credentials: when it ended, and its seconds.
        dry: how many providers are without credentials at the end.
    """

    requests: Counter[int] = field(default_factory=Counter)
    granted: Counter[int] = field(default_factory=Counter)
    waits: list[tuple[float, float]] = field(default_factory=list)
    dry: int = 0

    def rates(self, counts: Counter[int], begin: float, end: float) -> list[float]:
        """Return the requests a second in each minute of a time."""
        return [counts[minute] / MINUTE for minute in range(int(begin // MINUTE), math.ceil(end / MINUTE))]


class Quota:
    """A token bucket."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = self.tokens = burst
        self.time = 0.0

    def take(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.time) * self.rate)
        self.time = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Simulation:
    """A fleet in time. The service is down from `outage[0]` to `outage[1]`, in seconds from the start."""

    def __init__(self, fleet: Fleet, *, outage: tuple[float, float] = (0.0, 0.0), seed: int = 1) -> None:
        self.fleet = fleet
        self.outage = outage
        self.random = random.Random(seed)
        self.quota = Quota(fleet.quota, fleet.burst)
        self.history = History()
        self.providers: list[SimulatedProvider] = []
        self.calls: list[tuple[float, int]] = []

    def start_cold(self, seconds: float = BOOT_SECONDS) -> None:
        """Start all providers within some seconds, without credentials."""
        for _ in range(self.fleet.providers):
            begin = self.random.random() * seconds
            self._add(SimulatedProvider(begin), begin)

    def start_warm(self) -> None:
        """Give all providers sessions of different ages."""
        for _ in range(self.fleet.providers):
            lifetime = self.fleet.timing.lifetime(0, self.fleet.life, self.random.random)
            age = self.random.random() * (lifetime.end - lifetime.ahead)
            lifetime = replace(lifetime, end=lifetime.end - age)
            self._add(SimulatedProvider(lifetime.end, lifetime), lifetime.end - lifetime.ahead)

    def run(self, until: float) -> History:
        """Let time pass."""
        while self.calls and self.calls[0][0] < until:
            now, number = heapq.heappop(self.calls)
            heapq.heappush(self.calls, (self._request(now, self.providers[number]), number))
        self.history.dry = sum(provider.wanting_since <= until for provider in self.providers)
        return self.history

    def _add(self, provider: SimulatedProvider, time: float) -> None:
        heapq.heappush(self.calls, (time, len(self.providers)))
        self.providers.append(provider)

    def _request(self, now: float, provider: SimulatedProvider) -> float:
        """Send a provider's request, and return when it sends its next one."""
        minute = int(now // MINUTE)
        self.history.requests[minute] += 1
        is_up = not self.outage[0] <= now < self.outage[1]
        if is_up and self.quota.take(now):
            self.history.granted[minute] += 1
            return self._grant(now, provider)
        return self._refuse(now, provider)

    def _grant(self, now: float, provider: SimulatedProvider) -> float:
        if now > provider.wanting_since:
            self.history.waits.append((now, now - provider.wanting_since))
        lifetime = self.fleet.timing.lifetime(now, self.fleet.life, self.random.random)
        provider.lifetime, provider.wanting_since, provider.failures, provider.requests = lifetime, lifetime.end, 0, 0
        return now + until_refresh(lifetime, lifetime.end - now, next_try=-math.inf, now=now)

    def _refuse(self, now: float, provider: SimulatedProvider) -> float:
        provider.requests += 1
        if provider.requests < (self.fleet.later_requests if provider.failures else self.fleet.first_requests):
            # As create_session does within a try.
            return now + self.random.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (provider.requests - 1)))
        provider.requests = 0
        provider.failures += 1
        timing, chance = self.fleet.timing, self.random.random
        left = provider.lifetime.end - now if provider.lifetime else 0.0
        if provider.lifetime:
            provider.lifetime = timing.postponed(provider.lifetime, left, chance)
        pause = timing.pause(provider.failures, chance)
        if timing is RENEWAL_TIMING:
            pause = renewal_pause(pause, left)
        return now + until_refresh(provider.lifetime, left, next_try=now + pause, now=now)


def cold_start(fleet: Fleet, hours: float = 6) -> History:
    """Return what happens in a cold start of the whole fleet."""
    simulation = Simulation(fleet)
    simulation.start_cold()
    return simulation.run(hours * HOUR)


def outage(fleet: Fleet, hours: float = 7, minutes: float = 60) -> History:
    """Return what happens in an outage that begins after an hour."""
    simulation = Simulation(fleet, outage=(HOUR, HOUR + minutes * MINUTE))
    simulation.start_warm()
    return simulation.run(hours * HOUR)


def steady(fleet: Fleet, hours: float = 24) -> History:
    """Return what happens on a day without events."""
    simulation = Simulation(fleet)
    simulation.start_warm()
    return simulation.run(hours * HOUR)


def renewals(days: float, down_hours: float = 0, *, fleet: Fleet = Fleet()) -> tuple[History, float, float]:
    """Return what happens to certificates that were all issued within an hour, and when their renewal begins and ends.

    Args:
        days: their life.
        down_hours: for how long the issuer is down from the first renewal on.
        fleet: the machines; the quota is what the issuer can do.
    """
    life = days * 24 * HOUR
    begin = life * 2 / 3
    certified = replace(fleet, timing=RENEWAL_TIMING, life=life, first_requests=1)
    simulation = Simulation(certified, outage=(begin, begin + down_hours * HOUR))
    simulation.start_cold(HOUR)
    return simulation.run(life * 0.99 + HOUR), begin, life


CHOSEN = "**chosen**"
BACKOFFS = {
    CHOSEN: Fleet(),
    "no jitter": Fleet(timing=replace(SESSION_TIMING, jitter=0.0)),
    "pauses up to a tenth shorter": Fleet(timing=replace(SESSION_TIMING, jitter=0.1)),
    "pauses of any shorter length": Fleet(timing=replace(SESSION_TIMING, jitter=1.0)),
    "three requests in each attempt": Fleet(later_requests=3),
    "pauses up to 30 s": Fleet(timing=replace(SESSION_TIMING, longest_pause=30.0)),
    "pauses up to 300 s": Fleet(timing=replace(SESSION_TIMING, longest_pause=300.0)),
    "pauses up to 900 s": Fleet(timing=replace(SESSION_TIMING, longest_pause=900.0)),
    "pauses from 5 s": Fleet(timing=replace(SESSION_TIMING, first_pause=5.0)),
}
PATIENCES = {
    "0": Fleet(timing=replace(SESSION_TIMING, patience=0.0)),
    "1/4": Fleet(timing=replace(SESSION_TIMING, patience=0.25)),
    "**1/2**": Fleet(),
    "1": Fleet(timing=replace(SESSION_TIMING, patience=1.0)),
}
SPREADS = {
    "0": Fleet(timing=replace(SESSION_TIMING, spread=0.0)),
    "1/10": Fleet(timing=replace(SESSION_TIMING, spread=0.1)),
    "1/4": Fleet(timing=replace(SESSION_TIMING, spread=0.25)),
    "**1/2**": Fleet(),
    "3/4": Fleet(timing=replace(SESSION_TIMING, spread=0.75)),
    "1": Fleet(timing=replace(SESSION_TIMING, spread=1.0)),
}

# Days of life, and hours for which the issuer is down.
RENEWALS = [(1, 0), (1, 1), (1, 6), (7, 24), (90, 0), (90, 72)]
RENEWAL_HEADS = ["Worst minute, a second", "Requests of each", "Expired"]


def drain(history: History, begin: float) -> list[str]:
    """Return how long providers without credentials at a moment take to get them, and the requests that they send."""
    ends = sorted(end - begin for end, _ in history.waits if end > begin)
    last = "never, within three hours" if history.dry else f"{ends[-1]:,.0f}"
    sent = history.rates(history.requests, begin, begin + (2 * HOUR if history.dry else ends[-1]))
    return [last, f"{sum(sent) * MINUTE / len(ends):.1f}", f"{sent[0]:,.0f}"]


def waves(history: History) -> list[str]:
    """Return the worst minute of each of the first three refreshes of sessions that began together."""
    spells = [((22 + 44 * number) * MINUTE, (22 + 44 * (number + 1)) * MINUTE) for number in range(3)]
    return [f"{max(history.rates(history.requests, *spell)):.1f}" for spell in spells]


def renewal_row(days: int, down_hours: int) -> list[str]:
    history, begin, end = renewals(days, down_hours)
    sent = history.rates(history.requests, begin, end)
    expired = sum(when > end * 0.9 for when, _ in history.waits) + history.dry
    return [f"{days} d", f"{down_hours} h", f"{max(sent):.1f}", f"{sum(sent) * MINUTE / 10_000:.1f}", f"{expired}"]


def patience_row(fleet: Fleet) -> list[str]:
    return [f"{len(outage(fleet, 4, minutes).waits):,}" for minutes in (10, 15, 30)]


def spread_row(fleet: Fleet) -> list[str]:
    quiet = steady(fleet)
    rates = quiet.rates(quiet.requests, 0, 24 * HOUR)
    return [f"{statistics.mean(rates):.1f}", *waves(cold_start(fleet))]


def table(heads: list[str], rows: Iterator[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report() -> str:
    drains = ["All have credentials after, s", "Requests of each", "Requests a second in minute 1"]
    lacks = ["Lack credentials after an outage of 10 min", "of 15 min", "of 30 min"]
    spreads = ["Steady, requests a second", "Worst minute of wave 1", "of wave 2", "of wave 3"]
    colds = ([name, *drain(cold_start(f, 3), 0)] for name, f in BACKOFFS.items())
    outages = ([name, *drain(outage(f, 5), 2 * HOUR)] for name, f in BACKOFFS.items())
    return "\n\n".join(
        (
            table(["Cold start", *drains], colds),
            table(["After an outage of an hour", *drains], outages),
            table(["Patience", *lacks], ([name, *patience_row(f)] for name, f in PATIENCES.items())),
            table(["Spread", *spreads], ([name, *spread_row(f)] for name, f in SPREADS.items())),
            table(["Life", "Issuer is down", *RENEWAL_HEADS], map(renewal_row, *zip(*RENEWALS, strict=True))),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="write the plot here")
    plot = parser.parse_args().plot
    print(report())
    if plot:
        from bench.fleet_plot import draw

        plot.write_text(draw())


if __name__ == "__main__":
    main()
