"""The plot of the simulated fleet, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.fleet import HOUR, MINUTE, Fleet, History, cold_start, outage, steady
from bench.svg import head
from hwsigner._refresh.schedule import SESSION_TIMING

WIDTH, HEIGHT = 860, 170
LEFT, TOP, GAP = 60, 40, 62
LOWEST, HIGHEST = 1, 2000  # Requests a second, at the bottom and the top of a panel.
SENT, GRANTED, RIVAL, QUOTA = "#d1495b", "#00798c", "#bbbbbb", "#333333"
_TITLE = "Requests a second of 10,000 providers"
_DESCRIPTION = (
    "Three curves over six or seven hours: a cold start, an outage of an hour, and steady state. Requests rise at "
    "first, then stay below the quota of ten a second."
)


@dataclass
class Panel:
    """One panel: its title, the hours that it shows, and its curves from the back to the front."""

    title: str
    hours: float
    curves: Sequence[tuple[str, Sequence[float]]]

    def draw(self, top: float) -> list[str]:
        lines = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{self.title}</text>', *self._axes(top)]
        for colour, rates in self.curves:
            points = " ".join(f"{self._x((i + 0.5) / 60):.1f},{_y(top, rate):.1f}" for i, rate in enumerate(rates))
            lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        return lines

    def _axes(self, top: float) -> list[str]:
        lines = []
        for rate in (1, 10, 100, 1000):
            y, style = _y(top, rate), f'stroke="{QUOTA}" stroke-dasharray="6 4"' if rate == 10 else 'stroke="#e4e4e4"'
            lines.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" {style}/>')
            lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{rate:,}</text>')
        for hour in range(int(self.hours) + 1):
            at = f'x="{self._x(hour):.1f}" y="{top + HEIGHT + 16}" text-anchor="middle"'
            lines.append(f"<text {at}>{hour} h</text>")
        return lines

    def _x(self, hours: float) -> float:
        return LEFT + WIDTH * hours / self.hours


def draw() -> str:
    """Return the plot."""
    narrow = Fleet(timing=replace(SESSION_TIMING, spread=0.25))
    panels = [
        Panel("A cold start of the whole fleet", 6, _curves(cold_start(Fleet(), 6), 6, cold_start(narrow, 6))),
        Panel("An outage of the service, from 1 h to 2 h", 7, _curves(outage(Fleet(), 7), 7, outage(narrow, 7))),
        Panel("Steady state", 6, _curves(steady(Fleet(), 6), 6)),
    ]
    height = TOP + len(panels) * (HEIGHT + GAP) + 10
    return "\n".join(
        [
            *head(LEFT + WIDTH + 20, height, _TITLE, _DESCRIPTION),
            *(line for i, panel in enumerate(panels) for line in panel.draw(TOP + i * (HEIGHT + GAP))),
            *_legend(height - 14),
            "</svg>\n",
        ]
    )


def _curves(history: History, hours: float, rival: History | None = None) -> list[tuple[str, list[float]]]:
    until = hours * HOUR - MINUTE
    rivals = [(RIVAL, rival.rates(rival.requests, 0, until))] if rival else []
    sent, granted = (history.rates(counts, 0, until) for counts in (history.requests, history.granted))
    return [*rivals, (SENT, sent), (GRANTED, granted)]


def _legend(y: float) -> list[str]:
    entries = (
        (0, SENT, "CreateSession requests a second"),
        (270, GRANTED, "those granted"),
        (430, RIVAL, "requests, with half of the spread"),
        (710, QUOTA, "the quota"),
    )
    lines = []
    for offset, colour, name in entries:
        x = LEFT + offset
        lines.append(f'<line x1="{x}" x2="{x + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>')
        lines.append(f'<text x="{x + 30}" y="{y}">{name}</text>')
    return lines


def _y(top: float, rate: float) -> float:
    share = math.log(max(rate, LOWEST) / LOWEST) / math.log(HIGHEST / LOWEST)
    return top + HEIGHT * (1 - min(share, 1))
