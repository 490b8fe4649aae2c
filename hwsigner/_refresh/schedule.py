"""When a session is replaced, and when a failed attempt is repeated. Pure: time and chance are parameters.

Providers go by these rules, and `tests/bench/fleet.py` runs the same code for ten thousand simulated ones.
docs/how-it-works/fleet.md says how the figures were chosen.

Times are seconds of one clock that can't be set. A Chance returns random numbers from 0 up to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

_MAX_DOUBLINGS = 20
# Of the pause after a failed renewal: no less than this many seconds, or this share of what is left.
_SHORTEST_PAUSE, _PAUSE_SHARE = 10.0, 1 / 8

Chance = Callable[[], float]


@dataclass(frozen=True)
class Lifetime:
    """When a session expires, and when it is replaced."""

    end: float
    margin: float  # Once no more seconds than these are left, a caller creates the next session.
    ahead: float  # Once no more than these are left, a background provider does. At least the margin.

    def is_due(self, left: float) -> bool:
        """Return whether a caller creates the next session when this many seconds are left."""
        return left <= self.margin

    def is_due_ahead(self, left: float) -> bool:
        """Return whether a background provider does."""
        return left <= self.ahead


@dataclass(frozen=True)
class Timing:
    """Constants for refresh and retry times; durations are seconds.

    Attributes:
        margin: a session's margin.
        margin_share: the largest share of a session's life that its margin may take.
        spread: background providers refresh at a random moment of this share, the last, of the life before the margin.
        first_pause: the pause after the first failure. It doubles with each failure that follows.
        longest_pause: the longest pause.
        longest_asked: the longest wait that a service may ask for; it is added to the pause.
        patience: the share of the time until the margin that a background provider waits after a failure, so that
            those with less time left go first.
        jitter: the largest share of a pause, or of that wait, that chance takes away.
    """

    # botocore wants new credentials once 15 minutes are left: it is given at least one minute more.
    margin: float = 960.0
    margin_share: float = 1 / 3
    spread: float = 1 / 2
    first_pause: float = 1.0
    longest_pause: float = 120.0
    longest_asked: float = 900.0
    patience: float = 1 / 2
    jitter: float = 1 / 2

    def lifetime(self, now: float, life: float, chance: Chance) -> Lifetime:
        """Return the lifetime of a session that begins now and lives this many seconds."""
        margin = min(self.margin, life * self.margin_share)
        return Lifetime(now + life, margin, margin + (life - margin) * self.spread * chance())

    def postponed(self, lifetime: Lifetime, left: float, chance: Chance) -> Lifetime:
        """Return a session's lifetime after a failure to replace it, when this many seconds are left."""
        wait = self.patience * (left - lifetime.margin) * (1 - self.jitter * chance())
        return replace(lifetime, ahead=max(lifetime.margin, min(lifetime.ahead, left - wait)))

    def pause(self, failures: int, chance: Chance, *, asked: float = 0.0) -> float:
        """Return the seconds until the next attempt.

        `failures` is how many attempts failed in a row, at least one. Chance does not shorten the seconds that the
        service asks to wait; the pause that follows keeps a fleet that was told the same apart.
        """
        doubled = self.first_pause * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        return min(self.longest_asked, asked) + min(self.longest_pause, doubled) * (1 - self.jitter * chance())


SESSION_TIMING = Timing()
# For certificates: each is renewed at a moment between two thirds and three quarters of its life.
RENEWAL_TIMING = Timing(
    margin=math.inf,
    margin_share=1 / 4,
    spread=1 / 9,
    first_pause=300.0,
    longest_pause=3600.0,
    longest_asked=86400.0,
    patience=0.0,
)


def renewal_pause(pause: float, left: float) -> float:
    """Return the pause after a failed renewal, short enough for several attempts in what is left.

    `pause` has what the issuer asks for. Once the certificate has expired, `left` is negative, and pauses get longer
    again.
    """
    return min(pause, max(_SHORTEST_PAUSE, abs(left) * _PAUSE_SHARE))


def until_refresh(lifetime: Lifetime | None, left: float, *, next_try: float, now: float) -> float:
    """Return the seconds until a background provider refreshes: 0 for at once, infinity for never.

    `left` is the seconds that the last session has left. `next_try` is when the next attempt is allowed after a
    failure; minus infinity without one.
    """
    due = left - lifetime.ahead if lifetime else -math.inf
    return max(0.0, due, next_try - now)
