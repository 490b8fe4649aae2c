"""Processes: the command line of one of our own, and others of this machine, as far as /proc shows them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NamedTuple


def python_command(module: str) -> list[str]:
    """Return the command line that runs a module of hwsigner with the Python that runs this program.

    That Python imports nothing from the current folder, which other users may write, and nothing from PYTHONPATH if
    this one does not.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P", "-m", module]


class Process(NamedTuple):
    """A process.

    Attributes:
        pid: its number.
        name: its name, as it has it itself; 15 bytes at most.
        parent: the number of its parent; 0 for none.
        started: when it started, in clock ticks since the machine did. With the pid, it tells processes apart.
    """

    pid: int
    name: str
    parent: int
    started: int


def find_process(pid: int) -> Process | None:
    """Return a process; None if it has ended, or this user may not see it."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            begin, _, rest = os.read(descriptor, 4096).rpartition(b") ")  # The name may contain anything.
        finally:
            os.close(descriptor)
        fields = rest.split(b" ", 20)
        return Process(pid, begin.partition(b"(")[2].decode("utf-8", "replace"), int(fields[1]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def executable_of(pid: int) -> str:
    """Return the path of the program that a process runs, or an empty string if this user may not see it."""
    with suppress(OSError):
        return os.fsencode(os.readlink(f"/proc/{pid}/exe")).decode("utf-8", "replace")
    return ""
