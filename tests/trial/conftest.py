"""A trial against the emulator, whose time does not pass by itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwsigner.emulator import Emulator, World
from hwsigner.trial.aws import add_arguments
from hwsigner.trial.aws.calls import TrialPace
from trial.aws_trials import KEY, FakeTime


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
def flags(emulator: Emulator, tmp_path: Path) -> Callable[..., argparse.Namespace]:
    """Return the parsed flags of a trial against the emulator."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    common = ("--region", "eu-central-1", "--endpoint", emulator.url, "--output", str(tmp_path), "--yes")
    return lambda *more: parser.parse_args([*common, *more])
