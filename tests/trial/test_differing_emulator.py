"""A trial finds each answer that the emulator gives otherwise. docs/how-to/emulator.md says by which questions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from hwsigner.emulator import Difference, Emulator
from hwsigner.trial import TrialReport, Verdict
from trial_aws.calls import TrialPace
from trial_aws.life import try_all

pytestmark = pytest.mark.slow

Flags = Callable[..., argparse.Namespace]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "emulator.md"
_ROWS = re.findall(r"^\| `([a-z0-9-]+)` \| .+ \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
FOUND_BY = {name: re.findall(r"`([^`]+)`", cell) for name, cell in _ROWS}


def _differing(flags: Flags, pace: TrialPace, folder: Path, ids: Iterable[str] = ()) -> list[str]:
    """Ask all questions or some, and return those whose answers differ."""
    try_all(flags("--yes", *(word for each in ids for word in ("--only", each))), pace)
    (path,) = folder.glob("trial-aws-*.json")
    return [each.id for each in TrialReport.from_json(path.read_text()).results if each.verdict is Verdict.DIFFERS]


@pytest.mark.parametrize("difference", Difference)
def test_question_that_the_page_names_finds_the_difference(
    difference: Difference, emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    emulator.world.differing = {difference}
    first = FOUND_BY[difference][0]
    assert _differing(flags, pace, tmp_path, [first]) == [first]


@pytest.mark.parametrize("differing", [set(list(Difference)[start::5]) for start in range(5)])
def test_no_other_questions_than_those_on_the_page_find_some_differences(
    differing: set[Difference], emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    emulator.world.differing = differing
    assert set(_differing(flags, pace, tmp_path)) == {found for each in differing for found in FOUND_BY[each]}
