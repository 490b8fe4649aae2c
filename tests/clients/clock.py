"""A clock that a test sets, for the service and (through libfaketime) for every program that a stage runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serving.stage import Stage


class Clock:
    """A clock. Programs read from a file how many seconds it is ahead."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._ahead = 0
        self.advance(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._ahead)

    def advance(self, seconds: int) -> None:
        self._ahead += seconds
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"+{self._ahead}")
        fresh.replace(self._file)

    def environ(self) -> dict[str, str]:
        """Return the variables that make a program use it. The monotonic clock does not change, as in suspend."""
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@dataclass(frozen=True)
class ClockedStage(Stage):
    """A stage whose programs all use one clock."""

    clock: Clock

    def environ(self, **more: str) -> dict[str, str]:
        return super().environ(**self.clock.environ(), **more)
