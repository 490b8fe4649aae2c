"""The trial of opencryptoki, whose daemon and files are in namespaces of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner.trial import TrialReport, Verdict
from real_modules import opencryptoki_token
from trial.token_trials import NOT_OF_EMPTY, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.root]


def test_trial_of_opencryptoki_misses_only_a_serial_number_and_leaves_nothing(tmp_path: Path) -> None:
    with opencryptoki_token(tmp_path) as token:
        trial = [sys.executable, "-m", "hwsigner.trial", "token", token.module, "--yes", "--write", token.label]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HWSIGNER_PIN": token.pin}
        command = [*token.prefix, *trial, "--output", str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert "Nothing that it made is left on the token" in done.stdout, done.stdout + done.stderr
    [path] = tmp_path.glob("trial-token-*.json")
    report = TrialReport.from_json(path.read_text())
    differing = {one.id: one.answer for one in report.results if one.verdict == Verdict.DIFFERS}
    assert differing.items() <= {"token.names": "label"}.items()
    assert {one.id for one in report.results if one.verdict == Verdict.NOT_ASKED} == NOT_OF_EMPTY
