"""The life of a trial of AWS, against the emulator."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hwsigner.emulator import Emulator, Fault, Record
from hwsigner.emulator.iam_policies import read_policy
from hwsigner.emulator.refusals import RefusalError
from hwsigner.errors import HwsignerError, Interruption, ServiceError, ServiceUnreachableError, UsageError
from hwsigner.trial import TrialReport, Verdict
from trial.aws_trials import FEW, KEY, MAKING, FakeTime, Flags, resources, strand
from trial_aws import run
from trial_aws.authority import Issued
from trial_aws.calls import TrialPace
from trial_aws.life import clean, try_all
from trial_aws.questions import QUESTIONS
from trial_aws.scene import AWSScene

pytestmark = pytest.mark.slow


def _report(folder: Path) -> TrialReport:
    (path,) = folder.glob("trial-aws-*.json")
    return TrialReport.from_json(path.read_text())


def test_only_makes_what_the_chosen_questions_need(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    assert try_all(flags("--only", "roles.principal-star"), pace) == 0
    made = [each for each in emulator.requests if each.action in MAKING]
    assert len(made) == 1
    assert [each.id for each in _report(tmp_path).results] == ["roles.principal-star"]


def test_unknown_question_is_refused(flags: Flags, pace: TrialPace) -> None:
    with pytest.raises(UsageError, match="no question"):
        try_all(flags("--only", "nothing.*"), pace)


def test_trial_waits_for_roles_that_are_not_visible_at_once(
    flags: Flags, pace: TrialPace, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsigner.emulator.resources.Role.is_visible", lambda self, now: fake_time.passed > 70)
    assert try_all(flags(*FEW), pace) == 0
    assert fake_time.passed > 70


def test_the_file_for_clean_is_written_before_anything_is_made(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    found = []
    emulator.on_record = lambda record: found.append((record.action in MAKING, len([*tmp_path.glob("*.made.json")])))
    try_all(flags(*FEW), pace)
    assert found
    assert all(files for makes, files in found if makes)


def _interrupt_after(fake_time: FakeTime, sleeps: int) -> None:
    left = iter(range(sleeps))

    def interrupt() -> None:
        if next(left, None) is None:
            fake_time.on_sleep = lambda: None
            raise KeyboardInterrupt

    fake_time.on_sleep = interrupt


@pytest.mark.parametrize("sleeps", range(0, 30, 2))
def test_interrupted_trial_leaves_nothing_and_reports_the_answers_until_then(
    emulator: Emulator, flags: Flags, pace: TrialPace, fake_time: FakeTime, tmp_path: Path, sleeps: int
) -> None:
    _interrupt_after(fake_time, sleeps)
    try:
        assert try_all(flags(*FEW), pace) == 0
    except (Interruption, KeyboardInterrupt) as error:
        if "before everything" in str(error):
            clean(flags(), pace)
    assert resources(emulator) == []
    assert [*tmp_path.glob("*.made.json")] == []
    for path in tmp_path.glob("*.json"):
        assert len(TrialReport.from_json(path.read_text()).results) == 3


def test_what_can_t_be_deleted_is_named_and_clean_deletes_it(
    emulator: Emulator, flags: Flags, pace: TrialPace, capsys: pytest.CaptureFixture[str]
) -> None:
    strand(emulator, flags, pace)
    said = capsys.readouterr().err
    world = emulator.world
    names = [each.name for each in world.roles.values()]
    names += [each.name for each in (*world.trust_anchors.values(), *world.profiles.values())]
    assert len(names) == 4
    assert [each for each in names if f"{each} was not deleted" not in said] == []
    assert clean(flags(), pace) == 0
    assert resources(emulator) == []


def test_clean_finds_what_is_left_by_its_tag_if_there_is_no_file(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    strand(emulator, flags, pace)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert clean(flags("--output", str(elsewhere)), pace) == 0
    assert resources(emulator) == []


def test_clean_touches_nothing_that_only_looks_like_a_trial_s(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    strand(emulator, flags, pace)
    world = emulator.world
    kinds: tuple[dict[str, Any], ...] = (world.trust_anchors, world.profiles)
    for kind in kinds:
        for number, name in enumerate(("hwsigner-trial-abcdef-main", "web", "my-hwsigner-trial-abcdef-main")):
            arn, each = next(iter(kind.items()))
            tags = {} if number == 0 else each.tags
            foreign = type(each)(**{**vars(each), "arn": f"{arn[:-4]}{number:04}", "name": name, "tags": tags})
            kind[foreign.arn] = foreign
    role = next(iter(world.roles.values()))
    for path in ("/", "/hwsigner-trial/"):
        arn = f"arn:aws:iam::{world.account}:role{path}hwsigner-trial-abcde{path.count('/')}-open"
        world.roles[arn] = type(role)(**{**vars(role), "arn": arn, "tags": {}})
    assert clean(flags(), pace) == 0
    assert len(resources(emulator)) == 8


def test_clean_passes_over_what_another_trial_deletes_meanwhile(
    emulator: Emulator, flags: Flags, pace: TrialPace, fake_time: FakeTime
) -> None:
    strand(emulator, flags, pace)
    asked = len(emulator.requests)

    def vanish() -> None:
        if any(each.action == "iam:ListRoles" for each in emulator.requests[asked:]):
            emulator.world.roles.clear()
            emulator.world.profiles.clear()

    fake_time.on_sleep = vanish
    assert clean(flags(), pace) == 0
    assert resources(emulator) == []


def test_clean_in_another_region_keeps_the_file_and_says_where_to_clean(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strand(emulator, flags, pace)
    clean(flags("--region", "us-east-1"), pace)
    assert "--clean --region eu-central-1" in capsys.readouterr().err
    assert len([*tmp_path.glob("*.made.json")]) == 1


def test_clean_with_another_account_s_credentials_keeps_the_file(
    emulator: Emulator,
    flags: Flags,
    pace: TrialPace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    strand(emulator, flags, pace)
    (file,) = tmp_path.glob("*.made.json")
    emulator.add_credentials("AKIDOTHER", "another-secret", account="210987654321")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
        clean(flags(), pace)
    assert "a trial in another account" in capsys.readouterr().err
    assert emulator.world.account not in file.read_text()
    clean(flags(), pace)
    assert resources(emulator) == []
    assert not file.exists()


def test_missing_permission_to_list_does_not_keep_what_was_made(
    emulator: Emulator, flags: Flags, pace: TrialPace
) -> None:
    emulator.deny("iam:ListRoles")
    with pytest.raises(HwsignerError, match="lacks iam:ListRoles"):
        try_all(flags(*FEW), pace)
    assert resources(emulator) == []


@pytest.mark.parametrize("action", MAKING[:3])
def test_trial_without_a_permission_says_which_and_leaves_nothing(
    emulator: Emulator, flags: Flags, pace: TrialPace, action: str, tmp_path: Path
) -> None:
    emulator.deny(action)
    with pytest.raises(ServiceError, match="lacks") as caught:
        try_all(flags(*FEW), pace)
    assert action in str(caught.value)
    assert resources(emulator) == []
    assert [*tmp_path.iterdir()] == []


def test_refused_resource_is_the_answer_of_the_questions_that_need_it(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str, *more: Any) -> Any:
        if "PrincipalTag" in text:
            raise RefusalError("MalformedPolicyDocument", 400, "Has prohibited key")
        return read_policy(text, *more)

    monkeypatch.setattr("hwsigner.emulator.iam.read_policy", refuse)
    assert try_all(flags(*FEW), pace) == 1
    answers = {each.id: each.answer for each in _report(tmp_path).results if each.verdict is Verdict.DIFFERS}
    assert answers == {"trust.arn-variable": "create_role was refused: MalformedPolicyDocument: Has prohibited key"}


def test_questions_are_asked_even_if_the_simplest_session_is_refused(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.misbehave(Fault("deny", None))
    assert try_all(flags(*FEW), pace) == 1
    assert "no session of the simplest kind" in capsys.readouterr().err
    (page,) = tmp_path.glob("trial-aws-*.md")
    assert page.read_text().splitlines()[2].startswith("**No session of the simplest kind succeeds: 403 AccessDenied")
    verdicts = {each.id: each.verdict for each in _report(tmp_path).results}
    assert verdicts["chains.one"] is Verdict.DIFFERS
    assert verdicts["roles.principal-star"] is Verdict.EXPECTED
    assert resources(emulator) == []


@pytest.mark.parametrize("fault", ["no-credentials", "bad-expiration", "not-json", "html"])
def test_broken_answer_differs(emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, fault: str) -> None:
    emulator.misbehave(Fault(fault, None))
    try_all(flags("--only", "session-name.default"), pace)
    verdicts = [each.verdict for each in _report(tmp_path).results]
    assert verdicts == [Verdict.DIFFERS if fault != "bad-expiration" else Verdict.EXPECTED]


def test_busy_service_is_asked_again(emulator: Emulator, flags: Flags, pace: TrialPace) -> None:
    emulator.misbehave(Fault("throttle"), Fault("fail"))
    assert try_all(flags(*FEW), pace) == 0


def test_service_that_stays_busy_ends_the_trial_and_leaves_nothing(
    emulator: Emulator, flags: Flags, pace: TrialPace
) -> None:
    emulator.misbehave(Fault("fail", None))
    with pytest.raises(HwsignerError, match="status 500"):
        try_all(flags(*FEW), pace)
    assert resources(emulator) == []


def test_service_that_fails_at_one_question_each_time_differs(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(scene: AWSScene, _: object) -> Issued:
        emulator.misbehave(Fault("fail", 4))
        return scene.leaf()

    monkeypatch.setattr("trial_aws.asking._made", fail)
    assert try_all(flags("--only", "leaves.p-521", "--only", "tags.issuer"), pace) == 1
    answers = {each.id: each.answer for each in _report(tmp_path).results}
    failing = "the service kept answering with status 500"
    assert answers == {"tags.issuer": "a tag with this value", "leaves.p-521": failing}


@pytest.mark.parametrize("action", MAKING[:3])
def test_resource_is_used_or_deleted_even_if_the_response_about_it_was_lost(
    emulator: Emulator, flags: Flags, pace: TrialPace, action: str
) -> None:
    emulator.misbehave(Fault("close"), action=action)
    assert try_all(flags(*FEW), pace) == 0
    assert resources(emulator) == []


def test_quota_leaves_out_the_questions_that_need_more(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str, *more: Any) -> Any:
        if "PrincipalTag" in text:
            raise RefusalError("LimitExceeded", 409, "Cannot exceed quota for RolesPerAccount: 1000")
        return read_policy(text, *more)

    monkeypatch.setattr("hwsigner.emulator.iam.read_policy", refuse)
    assert try_all(flags(*FEW), pace) == 0
    left_out = {each.id: each.why for each in _report(tmp_path).results if each.verdict is Verdict.NOT_ASKED}
    assert list(left_out) == ["trust.arn-variable"]
    assert "RolesPerAccount" in left_out["trust.arn-variable"]


def test_unreachable_service_leaves_no_name_of_a_proxy_in_the_report(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise ServiceUnreachableError("the proxy http://proxy.corp.example:3128 answered 403")

    def ask(scene: AWSScene) -> str:
        monkeypatch.setattr("trial_aws.scene.post", fail)
        return str(scene.session(scene.leaf()))

    questions = [replace(QUESTIONS[0], id=f"proxies.{number}", ask=ask) for number in range(5)]
    monkeypatch.setattr("trial_aws.life.QUESTIONS", questions)
    assert try_all(flags(), pace) == UsageError.exit_status
    why = [each.why for each in _report(tmp_path).results]
    assert why == ["no response came"] * 3 + ["the service was not reached before"] * 2
    assert "corp" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_credentials_that_expire_meanwhile_are_no_answer(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    def expire(record: Record) -> None:
        if record.action == "rolesanywhere:CreateSession":
            emulator.add_credentials(KEY[0], "another-secret")

    emulator.on_record = expire
    with pytest.raises(ServiceError, match="not everything was deleted"):
        try_all(flags("--only", "roles.principal-star", "--only", "chains.one", "--only", "session-name.default"), pace)
    verdicts = {each.id: each.verdict for each in _report(tmp_path).results}
    assert verdicts == {
        "chains.one": Verdict.EXPECTED,
        "session-name.default": Verdict.EXPECTED,
        "roles.principal-star": Verdict.NOT_ASKED,
    }
    emulator.add_credentials(*KEY)
    clean(flags(), pace)
    assert resources(emulator) == []


def test_requests_that_are_sent_again_are_a_second_apart_too(
    emulator: Emulator, flags: Flags, pace: TrialPace, fake_time: FakeTime
) -> None:
    times: list[float] = []
    emulator.on_record = lambda _: times.append(fake_time.passed)
    emulator.misbehave(Fault("fail", 2), Fault("throttle"), action="iam:CreateRole")
    assert try_all(flags("--only", "roles.principal-star"), pace) == 0
    assert min(later - earlier for earlier, later in pairwise(times)) >= 1


def test_report_that_can_t_be_written_is_printed_and_does_not_keep_anything(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    emulator.on_record = lambda record: shutil.rmtree(folder, ignore_errors=True)
    with pytest.raises(HwsignerError, match="can't be written"):
        try_all(flags(*FEW, "--output", str(folder)), pace)
    assert len(emulator.requests) == 1  # Nothing is made without the file for --clean.

    folder.mkdir()
    emulator.on_record = lambda record: shutil.rmtree(folder) if record.action == "iam:CreateRole" else None
    with pytest.raises(HwsignerError, match="can't be written"):
        try_all(flags("--only", "roles.principal-star", "--output", str(folder)), pace)
    assert resources(emulator) == []
    printed = capsys.readouterr().out
    assert "A trial of 1 question in eu-central-1." in printed
    assert TrialReport.from_json(printed[printed.rindex("\n{\n") :]).results[0].id == "roles.principal-star"


def test_nothing_is_made_without_a_yes(
    emulator: Emulator, flags: Flags, pace: TrialPace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = flags()
    arguments.yes = False
    monkeypatch.setattr("builtins.input", lambda _: "n")
    with pytest.raises(UsageError, match="nothing was made"):
        try_all(arguments, pace)
    assert [each.action for each in emulator.requests] == []
    assert [*tmp_path.iterdir()] == []


def test_announcement_says_what_is_made_what_it_costs_and_the_policy(
    flags: Flags, pace: TrialPace, capsys: pytest.CaptureFixture[str]
) -> None:
    try_all(flags(*FEW, "--rates"), pace)
    said = capsys.readouterr().out
    assert "about 1 min, and 30 CreateSession requests at once" in said
    parts = ("trust anchors: 1\n", "roles: 2\n", "costs nothing", "about 1 min", '"iam:CreateRole"', "a second at most")
    assert [part for part in parts if part not in said] == []


def test_list_and_policy_ask_nothing(emulator: Emulator, flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(flags("--list")) == run(flags("--policy", "--region", "cn-north-1")) == 0
    said = capsys.readouterr().out
    assert "tags.names: Do O" in said
    assert "arn:aws-cn:iam" in said
    assert emulator.requests == []


def test_report_does_not_say_that_an_endpoint_of_a_variable_is_aws(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    arguments = flags("--only", "chains.one")
    arguments.endpoint = None
    assert try_all(arguments, pace) == 0
    assert _report(tmp_path).target["service"] == "another endpoint"
