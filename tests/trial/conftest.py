"""A trial against the emulator, whose time does not pass by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hwsigner.emulator import Emulator, World
from trial.aws_trials import KEY, FakeTime, Flags, flags_for
from trial_aws.calls import TrialPace


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def pace(fake_time: FakeTime) -> TrialPace:
    return TrialPace(clock=fake_time.clock, sleep=fake_time.sleep)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An account without roles, trust anchors and profiles, and its administrator's access key in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY[1])
    with Emulator(World()) as emulator:
        emulator.add_credentials(*KEY)
        yield emulator


@pytest.fixture
def flags(emulator: Emulator, tmp_path: Path) -> Flags:
    """What parses the flags of a trial against the emulator."""
    return flags_for(emulator, tmp_path)
