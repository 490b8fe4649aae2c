"""How many files and calls of ours a use passes through: what somebody has to read to follow it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import hwsigner

ROOT = Path(hwsigner.__file__).parent


class Path_(NamedTuple):
    files: list[str]
    calls: list[str]


def count_frames(use: Callable[[], object]) -> Path_:
    frames: list[FrameType] = []

    def note(frame, event, argument):
        if (
            event == "call"
            and frame.f_code.co_filename.startswith(str(ROOT))
            and frame.f_code.co_name not in ("<module>",)
        ):
            if not any(frame is f for f in frames):
                frames.append(frame)

    sys.setprofile(note)
    try:
        use()
    finally:
        sys.setprofile(None)
    files = list(dict.fromkeys(str(Path(f.f_code.co_filename).relative_to(ROOT)) for f in frames))
    return Path_(files, [f"{Path(f.f_code.co_filename).relative_to(ROOT)}:{f.f_code.co_qualname}" for f in frames])
