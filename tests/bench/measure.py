"""Times calls in turn within one process, in processor time, so that other processes do not count."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from timeit import Timer
from typing import Any

CLOCK = time.process_time


@dataclass
class Call:
    """A call to time: its name, a function that returns the seconds of one call, and the seconds of each round."""

    name: str
    time: Callable[[], float]
    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def ratio(self, other: Call) -> float:
        """Return the ratio of this call's time to the other's: the median over the rounds."""
        return statistics.median(a / b for a, b in zip(self.times, other.times, strict=True))


def pin() -> int:
    """Pin this process to one processor, the last that it may use, and return its number."""
    processor = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processor})
    return processor


def repeated(call: Callable[..., object], *arguments: object, count: int) -> Callable[[], float]:
    """Return a function that times repeated calls with the same arguments: the mean of `count`, after a warm-up.

    Without the warm-up, caches that are cold after another call's turn would weigh more on few calls than on many.
    """
    names = ", ".join(f"a{i}" for i in range(len(arguments)))
    values = {f"a{i}": argument for i, argument in enumerate(arguments)}
    statement = f"call({names})"
    warm_up = f"for _ in range({count // 4}): {statement}"
    timer = Timer(statement, warm_up, CLOCK, globals={"call": call, **values})
    return lambda: timer.timeit(count) / count


def each_once(call: Callable[[Any], object], make: Callable[[], Any], *, count: int) -> Callable[[], float]:
    """Return a function that times calls with `count` new arguments, each used once. Making them is not timed.

    They are made ten at a time, because in practice a request is signed just after it was made, while in the cache.
    """
    timer = Timer(
        "for argument in arguments: call(argument)",
        "arguments = [make() for _ in range(10)]",
        CLOCK,
        globals={"call": call, "make": make},
    )

    def run() -> float:
        for _ in range(count // 4):
            call(make())
        return sum(timer.repeat(count // 10, 1)) / count

    return run


def in_turn(calls: Iterable[Call], rounds: int) -> None:
    """Time every call once per round, after a first round that does not count."""
    calls = list(calls)
    for call in calls:
        call.time()
    for _ in range(rounds):
        for call in calls:
            call.times.append(call.time())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(within: bool) -> str:
    return "within" if within else "missed"
