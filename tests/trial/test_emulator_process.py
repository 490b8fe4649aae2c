"""Trials of `hwsigner emulator`, a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwsigner.trial import TrialReport, Verdict
from trial_aws.__main__ import main
from trial_aws.calls import TrialPace

ROOT = Path(__file__).parents[2]
Serve = Callable[..., dict[str, str]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """A function that starts an empty emulator, and returns the flags and variables to reach it with."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> dict[str, str]:
        command = [sys.executable, "-m", "hwsigner", "emulator", "--empty", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
        running.append(process)
        assert process.stdout is not None
        lines = dict(process.stdout.readline().rstrip("\n").split("=", 1) for _ in range(3))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", lines["access-key-id"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", lines["secret-access-key"])
        return lines

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def _flags(lines: dict[str, str], folder: Path, *more: str) -> list[str]:
    common = ["--region", "eu-central-1", "--endpoint", lines["endpoint"], "--output", str(folder), "--yes"]
    return [*common, *more]


def _report(folder: Path) -> TrialReport:
    (path,) = folder.glob("trial-aws-*.json")
    return TrialReport.from_json(path.read_text())


@pytest.fixture
def without_waiting(monkeypatch: pytest.MonkeyPatch, pace: TrialPace) -> None:
    monkeypatch.setattr("trial_aws.life.TrialPace", lambda: pace)


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.slow
def test_all_answers_of_the_emulators_command_are_as_expected(serve: Serve, tmp_path: Path) -> None:
    assert main(_flags(serve(), tmp_path)) == 0
    assert [each for each in _report(tmp_path).results if each.verdict is Verdict.DIFFERS] == []


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.slow
def test_an_answer_that_the_emulators_command_changes_is_found(serve: Serve, tmp_path: Path) -> None:
    only = ("--only", "session-name.default", "--only", "chains.one")
    assert main(_flags(serve("--differ", "upper-case-serial"), tmp_path, *only)) == 1
    found = {each.id: each.verdict for each in _report(tmp_path).results}
    assert found == {"session-name.default": Verdict.DIFFERS, "chains.one": Verdict.EXPECTED}


@pytest.mark.slow
def test_trial_as_a_command_asks_the_emulators_command_one_request_a_second(serve: Serve, tmp_path: Path) -> None:
    arguments = _flags(serve(), tmp_path, "--only", "chains.one")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "trial_aws", *arguments]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert [each.verdict for each in _report(tmp_path).results] == [Verdict.EXPECTED]
