"""The way of a whole command can be followed: how many calls of our functions it makes, and in how many files."""

from __future__ import annotations

from typing import NamedTuple

import pytest

import ways


class Bound(NamedTuple):
    """What a way may pass through. The test leaves 3 % of room."""

    calls: int
    files: int


# `PYTHONPATH=tests:. .venv/bin/python tests/ways.py` prints the numbers. Lower them when a way gets shorter.
BOUNDS = {
    "credential-process": Bound(598, 46),
    "enroll": Bound(945, 51),
    "renew": Bound(811, 53),
    "aws setup": Bound(1060, 40),
    "doctor": Bound(545, 50),
    "agent": Bound(23, 8),
}
ROOM = 1.03

# Without the extension, the Python twin's calls are on the way too.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", BOUNDS)
def test_way_is_no_longer_than_it_was(name: str, hardware: None) -> None:
    frames = ways.follow(name)
    bound = BOUNDS[name]
    assert len(frames.calls) <= bound.calls * ROOM, f"{len(frames.calls)} calls; tests/ways.py prints them"
    assert len(frames.files) <= bound.files * ROOM, frames.files


def test_each_way_has_a_bound() -> None:
    assert BOUNDS.keys() == {*ways.WAYS, ways.AGENT}
