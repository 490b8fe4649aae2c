"""A whole trial of AWS against the emulator, with no more than the least IAM policy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from hwsigner.emulator import Emulator, Record, World
from hwsigner.emulator.control.operations import OPERATIONS
from hwsigner.emulator.iam import _ACTIONS
from hwsigner.trial import TrialReport, Verdict
from trial.aws_trials import KEY, MAKING, FakeTime, flags_for, resources, strand
from trial_aws.calls import TrialPace
from trial_aws.life import clean, try_all
from trial_aws.policy import least_policy
from trial_aws.questions import QUESTIONS

pytestmark = pytest.mark.slow
ALLOWED = {each for statement in least_policy()["Statement"] for each in statement["Action"]}
# AWS checks these beside others, or only for an account that has never used Roles Anywhere.
IMPLICIT = {"iam:PassRole", "iam:CreateServiceLinkedRole", "iam:TagRole", "rolesanywhere:TagResource"}
# They need no permission, or that of a role's session.
OF_SESSIONS = {"", "rolesanywhere:CreateSession", "sts:GetCallerIdentity", "sts:AssumeRole"}
NOT_ASKED_HERE = (
    *("it needs an AWS Private CA", "the emulator can't do this, and says so", "it is asked of AWS only"),
    "it is asked only with --rates",
)


@dataclass
class Whole:
    """What came of a whole trial."""

    status: int
    report: TrialReport
    written: dict[str, str]
    said: str
    left: list[str]
    requests: list[Record]
    times: list[float]
    account: str
    host: str
    actions_with_clean: set[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder, time, said = tmp_path_factory.mktemp("trial"), FakeTime(), StringIO()
    pace = TrialPace(clock=time.clock, sleep=time.sleep)
    with pytest.MonkeyPatch.context() as patch, Emulator(World()) as emulator:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY[1])
        emulator.add_credentials(*KEY)
        times: list[float] = []
        emulator.on_record = lambda _: times.append(time.passed)
        known = {f"rolesanywhere:{each}" for each in OPERATIONS} | {f"iam:{each}" for each in _ACTIONS}
        emulator.deny(*known - ALLOWED)
        flags = flags_for(emulator, folder)
        with redirect_stdout(said), redirect_stderr(said):
            status = try_all(flags(), pace)
        left, requests = resources(emulator), list(emulator.requests)
        written = {path.name: path.read_text() for path in folder.iterdir()}
        strand(emulator, flags, pace)
        clean(flags(), pace)
        actions = {each.action for each in emulator.requests}
        host = emulator.url.removeprefix("http://")
        (report,) = (TrialReport.from_json(text) for name, text in written.items() if name.endswith(".json"))
        yield Whole(
            status, report, written, said.getvalue(), left, requests, times, emulator.world.account, host, actions
        )


def test_every_answer_is_as_expected(whole: Whole) -> None:
    unexpected = [each for each in whole.report.results if each.verdict is not Verdict.EXPECTED]
    assert [each for each in unexpected if each.why not in NOT_ASKED_HERE] == []
    assert [each.id for each in whole.report.results] == [each.id for each in QUESTIONS]
    assert whole.status == 0


def test_nothing_is_left_but_the_report(whole: Whole) -> None:
    assert whole.left == []
    assert {Path(name).suffix for name in whole.written} == {".json", ".md"}


def test_requests_are_a_second_apart(whole: Whole) -> None:
    assert len(whole.times) > len(QUESTIONS)
    assert min(later - earlier for earlier, later in pairwise(whole.times)) >= 1


def test_whole_trial_takes_the_minutes_that_it_says(whole: Whole) -> None:
    (said,) = re.findall(r"takes about (\d+) min", whole.said)
    assert int(said) == pytest.approx(whole.times[-1] / 60, abs=2)
    assert int(said) <= 15


def test_least_policy_has_exactly_the_actions_that_are_used(whole: Whole) -> None:
    assert {each.action for each in whole.requests} - OF_SESSIONS <= ALLOWED
    assert ALLOWED - whole.actions_with_clean == IMPLICIT


def test_everything_that_is_made_has_the_prefix_and_the_tag(whole: Whole) -> None:
    made = [each for each in whole.requests if each.action in MAKING]
    assert made
    for record in made:
        members = _members(record)
        assert re.match("hwsigner-trial-[0-9a-f]{6}-", members.get("name") or members["RoleName"])
        assert "hwsigner-trial" in {members.get("Tags.member.1.Key"), members.get("tags", [{}])[0].get("key")}


def _members(record: Record) -> dict[str, Any]:
    """Return the members of a request to IAM or the control plane."""
    if record.action.startswith("iam:"):
        return {name: values[0] for name, values in parse_qs(record.body.decode()).items()}
    found: dict[str, Any] = json.loads(record.body or b"{}")
    return found


def test_files_identify_nobody_and_have_no_secret(whole: Whole) -> None:
    text = "".join(whole.written.values())
    for identifying in (whole.account, *KEY, whole.host, "hwsigner-trial-", "ASIA", "AROA"):
        assert identifying not in text
    assert re.findall(r"[A-Za-z0-9+/=]{40,}|-----BEGIN|/tmp/|arn:aws[a-z-]*:[a-z]|\b\d{12}\b", text) == []


def test_terminal_shows_no_credentials_and_certificates(whole: Whole) -> None:
    assert re.findall(r"ASIA|[A-Za-z0-9+/=]{100,}|-----BEGIN", whole.said) == []
