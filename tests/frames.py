"""How much of hwsigner's code a use passes through: what somebody has to read to follow it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import hwsigner

# Frames of their own before Python 3.12 alone.
COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>"}
ROOT = f"{Path(hwsigner.__file__).parent}/"


class Frames(NamedTuple):
    """The frames of hwsigner's functions that a use entered.

    Attributes:
        files: their files, relative to the package, each once, in the order in which they were entered.
        calls: their functions, each as often as it was called. A generator counts once, however often it is resumed.
    """

    files: list[str]
    calls: list[str]

    def between(self, first: str, end: str) -> Frames:
        """Return those from one call to the next call of another function, without it."""
        begin = self.calls.index(first)
        return Frames.of(self.calls[begin : self.calls.index(end, begin)])

    @staticmethod
    def of(calls: list[str]) -> Frames:
        return Frames(list(dict.fromkeys(call.partition(":")[0] for call in calls)), calls)


class Recorder:
    """Records the frames that a thread enters, from `start` to `stop`."""

    def __init__(self) -> None:
        self._entered: dict[int, FrameType] = {}  # By their ids, which stay theirs while they are kept here.

    def start(self) -> None:
        self._previous = sys.getprofile()
        sys.setprofile(self._note)

    def stop(self) -> None:
        sys.setprofile(self._previous)

    def frames(self) -> Frames:
        codes = [each.f_code for each in self._entered.values() if each.f_code.co_name not in COMPREHENSIONS]
        return Frames.of([f"{code.co_filename.removeprefix(ROOT)}: {code.co_name}" for code in codes])

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT) and not _is_import(frame):
            self._entered[id(frame)] = frame


def count_frames(use: Callable[[], object]) -> Frames:
    """Return the frames that a callable enters in this thread. What modules do when they are imported is left out."""
    recorder = Recorder()
    recorder.start()
    try:
        use()
    finally:
        recorder.stop()
    return recorder.frames()


def described(section: str) -> set[str]:
    """Return the files that a section of docs/how-it-works/architecture.md names."""
    page = (Path(__file__).parents[1] / "docs" / "how-it-works" / "architecture.md").read_text()
    return set(re.findall(r"`([\w/]+\.py)`", page.split(f"### {section}:")[1].split("\n#")[0]))


def _is_import(frame: FrameType | None) -> bool:
    """Return whether a frame is a module's of ours, or was entered from one."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(ROOT):
            return True
        frame = frame.f_back
    return False
