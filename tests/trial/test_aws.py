"""The life of a trial of AWS, against the emulator."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from hwsigner.emulator import Emulator
from hwsigner.trial import TrialReport
from hwsigner.trial.aws.calls import TrialPace
from hwsigner.trial.aws.life import try_all

Flags = Callable[..., argparse.Namespace]


def _report(folder: Path) -> TrialReport:
    (path,) = folder.glob("trial-aws-*.json")
    return TrialReport.from_json(path.read_text())


def test_trial_finds_nothing_else_than_expected_and_leaves_nothing(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    status = try_all(flags("--yes"), pace)
    report = _report(tmp_path)
    assert [each for each in report.results if each.verdict != "as expected"] == []
    assert status == 0
    world = emulator.world
    assert [*world.roles, *world.trust_anchors, *world.profiles, *world.crls] == []
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}
