"""A trial of AWS as a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from hwsigner.emulator import Emulator
from pages import ROOT
from trial.aws_trials import Flags, resources
from trial_aws.calls import TrialPace
from trial_aws.life import clean

pytestmark = pytest.mark.slow


def _start(emulator: Emulator, folder: Path) -> subprocess.Popen[bytes]:
    """Start a trial, and wait until it has made a role."""
    emulator.world.rate = 1
    made = Event()
    emulator.on_record = lambda record: made.set() if record.action == "iam:CreateRole" else None
    flags = ("--yes", "--region", "eu-central-1", "--endpoint", emulator.url, "--output", str(folder))
    command = [sys.executable, "-m", "trial_aws", "--only", "tags.two-ous", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert made.wait(30)
    return process


def test_killed_trial_leaves_nothing_after_clean(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    with _start(emulator, tmp_path) as process:
        process.kill()
    emulator.world.rate = None
    assert resources(emulator)
    assert len([*tmp_path.glob("*.made.json")]) == 1
    assert clean(flags(), pace) == 0
    assert resources(emulator) == []
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_trial_that_is_told_to_end_deletes_everything(emulator: Emulator, tmp_path: Path, number: int) -> None:
    with _start(emulator, tmp_path) as process:
        process.send_signal(number)
        assert process.wait(60) == 130
    assert resources(emulator) == []
    assert [*tmp_path.iterdir()] == []
