"""What ends a trial of AWS before it asks, and what a missing permission does."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsigner.emulator import Emulator
from hwsigner.errors import ServiceError
from hwsigner.trial import TrialReport
from hwsigner.trial.asking import status_of
from trial.aws_trials import FEW, Flags, resources, strand
from trial_aws import run
from trial_aws.calls import TrialPace
from trial_aws.life import try_all
from trial_aws.plan import plan_of
from trial_aws.questions import QUESTIONS
from trial_aws.scene import RefusedInAdvanceError

pytestmark = pytest.mark.slow

_CREATING = {"anchor": "create_trust_anchor", "profile": "create_profile", "role": "create_role"}


def test_what_every_session_needs_is_made_first_but_for_the_role_that_shows_that_the_others_can_be_used() -> None:
    plan = plan_of(QUESTIONS)
    assert (plan.anchors[0].name, plan.profiles[0].name, plan.roles[-1].name) == ("main", "main", "open")


@pytest.mark.parametrize("kind", _CREATING)
def test_trial_ends_if_what_every_session_needs_is_refused(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def check(operation: str, _: object) -> None:
        if operation == _CREATING[kind]:
            raise RefusedInAdvanceError(f"{operation} was refused: full")

    monkeypatch.setattr("trial_aws.making._check", check)
    with pytest.raises(ServiceError, match=f"the {kind} of the simplest session can't be made: .* was refused: full"):
        try_all(flags("--only", "anchors.*"), pace)
    made = [each.action for each in emulator.requests]
    assert made.count("rolesanywhere:CreateTrustAnchor") == 1 or kind != "anchor"
    assert "rolesanywhere:CreateSession" not in made
    assert resources(emulator) == []
    assert [*tmp_path.iterdir()] == []


def test_room_for_two_trust_anchors_leaves_out_the_questions_that_need_more(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsigner.emulator.control.anchors.MAX_ANCHORS", 2)
    assert try_all(flags("--only", "anchors.*", "--only", "revocation.*"), pace) == 0
    (path,) = tmp_path.glob("trial-aws-*.json")
    why = {each.id: each.why for each in TrialReport.from_json(path.read_text()).results if each.why}
    assert {"anchors.expired", "anchors.alias", "revocation.revoked", "revocation.third"} <= why.keys()
    assert all("which is its quota" in each for each in why.values())


def test_trust_anchors_that_killed_trials_have_left_are_counted_and_named(
    emulator: Emulator, flags: Flags, pace: TrialPace, capsys: pytest.CaptureFixture[str]
) -> None:
    strand(emulator, flags, pace)
    (left,) = (each.name for each in emulator.world.trust_anchors.values())
    capsys.readouterr()
    assert try_all(flags(*FEW), pace) == 0
    said = capsys.readouterr().err
    assert f"killed trials have left 1 trust anchor, which the quota counts too: {left}. Run the same" in said


@pytest.mark.parametrize("action", ["iam:CreateRole", "rolesanywhere:ListTrustAnchors", "iam:DeleteRole"])
def test_missing_permission_has_an_exit_status_of_its_own(
    emulator: Emulator,
    flags: Flags,
    pace: TrialPace,
    action: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("trial_aws.life.TrialPace", lambda: pace)
    emulator.deny(action)
    assert status_of(lambda: run(flags("--only", "roles.principal-star", "--only", "chains.one"))) == 8
    said = capsys.readouterr().err
    assert action in said
    assert ("iam:CreateRole of '(prefix)-open' was refused" in said) is (action == "iam:CreateRole")


def test_missing_permission_for_a_question_has_the_same_exit_status(
    emulator: Emulator, flags: Flags, pace: TrialPace, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.deny("rolesanywhere:UpdateTrustAnchor")
    assert try_all(flags("--only", "anchors.alias", "--only", "chains.one"), pace) == 8
    assert "some questions were not asked, because a permission is missing" in capsys.readouterr().err
