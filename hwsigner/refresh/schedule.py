"""When a session is replaced, and when a failed try is repeated: pure, with time and chance as parameters.

What providers do, and what `tests/bench/fleet.py` simulates for ten thousand of them, is decided here. The figures are
chosen from that simulation: docs/fleet.md.

Times are seconds of one clock that nobody sets. A chance gives numbers from 0 up to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

_MAX_DOUBLINGS = 20

Chance = Callable[[], float]


@dataclass(frozen=True)
class Lease:
    """How long a session lives, and when it is replaced.

    Attributes:
        end: when it ends.
        margin: with no more seconds of life than these it is given to nobody while a fresh session can be had.
        ahead: with no more than these, which are more, a resident replaces it before anybody has to wait for that.
    """

    end: float
    margin: float
    ahead: float

    def is_due(self, left: float) -> bool:
        """Tell whether a caller is to create the next session, with so many seconds of life left."""
        return left <= self.margin

    def is_due_ahead(self, left: float) -> bool:
        """Tell whether a resident is to."""
        return left <= self.ahead

    def left(self, now: float, by_wall: float) -> float:
        """Return the seconds of life that are left, by the clock that leaves fewer.

        The wall clock may be set back; the other stops with a virtual machine.

        Args:
            now: the time.
            by_wall: the seconds until the session ends by the wall clock.
        """
        return min(self.end - now, by_wall)


@dataclass(frozen=True)
class Policy:
    """The figures.

    Attributes:
        margin: the margin of a lease, in seconds.
        margin_share: the margin is no more than this share of the session's life.
        spread: residents refresh at a moment that chance picks from this share of the life before the margin, its end.
        first_pause: the pause after the first failure, in seconds; it doubles with each that follows.
        longest_pause: what it does not exceed.
        longest_asked: the most seconds that a service may ask to wait besides.
        patience: after a failure a resident lets this share of the time until the margin pass: who has less goes first.
        jitter: the share of a pause, or of that time, that chance may take away.
    """

    # botocore asks for other credentials when 15 minutes are left: what it gets has one minute more.
    margin: float = 960.0
    margin_share: float = 1 / 3
    spread: float = 1 / 2
    first_pause: float = 1.0
    longest_pause: float = 120.0
    longest_asked: float = 900.0
    patience: float = 1 / 2
    jitter: float = 1 / 2

    def lease(self, now: float, life: float, chance: Chance) -> Lease:
        """Return the lease of a session that begins now and lives so many seconds."""
        margin = min(self.margin, life * self.margin_share)
        return Lease(now + life, margin, margin + (life - margin) * self.spread * chance())

    def postponed(self, lease: Lease, left: float, chance: Chance) -> Lease:
        """Return a lease after a failure, with so many seconds of life left."""
        wait = self.patience * (left - lease.margin) * (1 - self.jitter * chance())
        return replace(lease, ahead=max(lease.margin, min(lease.ahead, left - wait)))

    def pause(self, failures: int, chance: Chance, *, asked: float = 0.0) -> float:
        """Return the seconds until the next try.

        Args:
            failures: how many tries failed in a row, one at least.
            chance: takes a share away.
            asked: the seconds that the service asks to wait. A fleet that is told the same does not come at once.
        """
        doubled = self.first_pause * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        return min(self.longest_asked, asked) + min(self.longest_pause, doubled) * (1 - self.jitter * chance())


POLICY = Policy()


def until_refresh(lease: Lease | None, left: float, *, next_try: float, now: float) -> float:
    """Return the seconds until a resident refreshes what is asked for: 0 for at once, infinity for never.

    Args:
        lease: the last session's, or None.
        left: the seconds of life that it has left.
        next_try: when a try may be made, after one that failed; minus infinity after none.
        now: the time.
    """
    due = left - lease.ahead if lease else -math.inf
    return max(0.0, due, next_try - now)
