"""Plots the costs of outputs and signatures: `python tests/bench/plot.py OUTPUTS.json KEYS.json PLOT.svg`.

`outputs.py` and `keys.py` write the figures with `--json`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from bench.svg import head  # noqa: E402

WIDTH, BAR, STEP = 480, 14, 22
LEFT, TOP, GAP, RIGHT = 400, 40, 70, 80
COLD, WARM, REST, KEY, MARK = "#00798c", "#d1495b", "#bbbbbb", "#00798c", "#333333"


@dataclass(frozen=True)
class Bar:
    """A bar: its name, its value, its colour, and the value of a mark beside it."""

    name: str
    value: float
    colour: str
    mark: float | None = None


@dataclass(frozen=True)
class Panel:
    """Bars on a logarithmic scale, from the first tick to the last."""

    title: str
    ticks: Sequence[float]
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return len(self.bars) * STEP

    def draw(self, top: float) -> Iterator[str]:
        yield f'<text x="{LEFT}" y="{top - 12}" font-weight="bold">{escape(self.title)}</text>'
        for tick in self.ticks:
            x = self._x(tick)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + self.height}" stroke="#e4e4e4"/>'
            yield f'<text x="{x:.1f}" y="{top + self.height + 16}" text-anchor="middle">{tick:,g}</text>'
        for i, bar in enumerate(self.bars):
            yield from self._draw_bar(bar, top + i * STEP + (STEP - BAR) / 2)

    def _draw_bar(self, bar: Bar, y: float) -> Iterator[str]:
        end = self._x(bar.value)
        figure = f"{bar.value:,.0f}" if bar.value >= 100 else f"{bar.value:.2g}"
        yield f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(bar.name)}</text>'
        yield f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" fill="{bar.colour}"/>'
        if bar.mark is not None:
            x = self._x(bar.mark)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + BAR + 2}" stroke="{MARK}" stroke-width="2"/>'
            end = max(end, x)
        yield f'<text x="{end + 6:.1f}" y="{y + 11}">{figure}</text>'

    def _x(self, value: float) -> float:
        lowest, highest = self.ticks[0], self.ticks[-1]
        return LEFT + WIDTH * math.log(max(value / lowest, 1)) / math.log(highest / lowest)


def draw(outputs: Mapping[str, float], keys: Sequence[Mapping[str, Any]]) -> str:
    """Return the plot of start-up times, as ratios to a bare Python, and of signatures per second."""
    colours = {name: WARM if ", warm" in name else COLD if ", cold" in name else REST for name in outputs}
    starts = [Bar(name.replace("`", ""), ratio, colours[name]) for name, ratio in outputs.items()]
    rates = [Bar(key["name"], 1e6 / key["ours"], KEY, 1e6 / key["judge"]) for key in keys]
    ratios = "Start-up time, as a multiple of a bare Python's (red: an agent has the credentials)"
    signatures = "Signatures per second with an open key (line: the same key in C)"
    panels = [
        Panel(ratios, (0.01, 0.1, 1, 10, 100), starts),
        Panel(signatures, (100, 1000, 10_000, 100_000), rates),
    ]
    lines: list[str] = []
    top = TOP
    for panel in panels:
        lines += panel.draw(top)
        top += panel.height + GAP
    first = head(
        LEFT + WIDTH + RIGHT,
        top - GAP + 30,
        "Start-up times and signatures per second",
        "Bars: the start-up time of each output as a multiple of a bare Python's, and the signatures per second of "
        "each kind of key.",
    )
    return "\n".join([*first, *lines, "</svg>\n"])


def main() -> None:
    """Draw the plot from the files."""
    outputs, keys, plot = map(Path, sys.argv[1:])
    plot.write_text(draw(json.loads(outputs.read_text()), json.loads(keys.read_text())))


if __name__ == "__main__":
    main()
