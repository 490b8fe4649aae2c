"""How much of hwsigner's code a use passes through: what somebody has to read to follow it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import hwsigner

ROOT = f"{Path(hwsigner.__file__).parent}/"


class Frames(NamedTuple):
    """The frames of hwsigner's functions that a use entered.

    Attributes:
        files: their files, relative to the package, each once, in the order in which they were entered.
        calls: their functions, each as often as it was called. A generator counts once, however often it is resumed.
    """

    files: list[str]
    calls: list[str]


def count_frames(use: Callable[[], object]) -> Frames:
    """Return the frames that a callable enters in this thread. What modules do when they are imported is left out."""
    entered: dict[int, FrameType] = {}  # By their ids, which stay theirs while they are kept here.

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT) and not _is_import(frame):
            entered[id(frame)] = frame

    previous = sys.getprofile()
    sys.setprofile(note)
    try:
        use()
    finally:
        sys.setprofile(previous)
    codes = [frame.f_code for frame in entered.values()]
    files = [code.co_filename.removeprefix(ROOT) for code in codes]
    calls = [f"{file}: {code.co_name}" for file, code in zip(files, codes, strict=True)]
    return Frames(list(dict.fromkeys(files)), calls)


def _is_import(frame: FrameType | None) -> bool:
    """Return whether a frame is a module's of ours, or was entered from one."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(ROOT):
            return True
        frame = frame.f_back
    return False
