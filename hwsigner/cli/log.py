"""The log of a command that stays: whole lines on stderr, without control characters."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from hwsigner.errors import printable
from hwsigner.system.systemd import WARNING, is_journal, line_priority

MAX_REFUSALS_PER_SECOND = 20

_STDERR = 2
# Characters. A pipe that is ready takes at least 4096 bytes at once (pipe(7)).
_MAX_CHARACTERS = 1000


class Log:
    """Writes lines without waiting for a reader, and limits the lines about refused requests.

    Its output is not hidden by `hwsigner.system.stderr`.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        try:
            self._descriptor = os.dup(_STDERR)
        except OSError:  # It is closed.
            self._descriptor = os.open(os.devnull, os.O_WRONLY)
        self._is_journal = is_journal(self._descriptor)
        self._second = 0
        self._count = 0
        self._lost = 0

    def note(self, text: str, priority: int | None = None) -> None:
        """Write a line. If stderr is blocked, by a full pipe or a stopped terminal, drop the line and count it.

        Args:
            text: the line.
            priority: its priority in the journal; by default, judged by whether it begins with `error:` or `warning:`.
        """
        lines = [f"{self._lost} lines were lost", text] if self._lost else [text]
        begin = f"<{priority or line_priority(text)}>hwsigner: " if self._is_journal else "hwsigner: "
        data = "".join(f"{begin}{printable(line)}"[:_MAX_CHARACTERS] + "\n" for line in lines).encode()
        try:
            if self._is_ready():
                os.write(self._descriptor, data)
                self._lost = 0
            else:
                self._lost += 1
        except OSError:
            self._lost += 1

    def refused(self, text: str) -> None:
        """Write a line about a refused request. Of each second, write the first lines and the number of the others."""
        second = int(self._clock())
        if second != self._second:
            if self._count > MAX_REFUSALS_PER_SECOND:
                self.note(f"refused {self._count - MAX_REFUSALS_PER_SECOND} more requests", WARNING)
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= MAX_REFUSALS_PER_SECOND:
            self.note(text, WARNING)

    def _is_ready(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return any(event & select.POLLOUT for _, event in poll.poll(0))
