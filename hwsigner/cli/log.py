"""The log of a command that stays: lines on stderr, each whole, without control characters."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from hwsigner.errors import printable

MOST_A_SECOND = 20

_STDERR = 2
# Characters; a pipe that takes more takes at least 4096 bytes at once (pipe(7)).
_LONGEST = 1000


class Log:
    """Writes lines, no flood of refusals, and none that would have to wait for who reads them.

    It is not silenced with native libraries (`hwsigner.system.stderr`).

    Args:
        clock: tells seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        try:
            self._descriptor = os.dup(_STDERR)
        except OSError:  # It is closed: nobody reads.
            self._descriptor = os.open(os.devnull, os.O_WRONLY)
        self._second = 0
        self._count = 0
        self._lost = 0

    def note(self, text: str) -> None:
        """Write a line. Where stderr takes none (a terminal that was stopped, a full pipe) it is lost, and counted."""
        lines = [f"{self._lost} lines were lost", text] if self._lost else [text]
        data = "".join(f"hwsigner: {printable(line)}"[:_LONGEST] + "\n" for line in lines).encode()
        try:
            if self._takes_more():
                os.write(self._descriptor, data)
                self._lost = 0
            else:
                self._lost += 1
        except OSError:
            self._lost += 1

    def refused(self, text: str) -> None:
        """Write a line of a refusal; of those of one second the first ones, and how many more there were."""
        second = int(self._clock())
        if second != self._second:
            if self._count > MOST_A_SECOND:
                self.note(f"refused {self._count - MOST_A_SECOND} more requests")
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= MOST_A_SECOND:
            self.note(text)

    def _takes_more(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return any(event & select.POLLOUT for _, event in poll.poll(0))
