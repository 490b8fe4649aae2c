"""What README, SECURITY and docs/reference/tried.md say was tried is made from the reports in trials/."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from datetime import date, timedelta
from importlib import import_module
from pathlib import Path

import pytest
import tried

from hwsigner.trial import Origin, Question, Result, Source, TrialReport, Verdict, ask_all
from pages import ROOT

TABLES = {"aws": {"service": "AWS"}, "tpm": {"vendor": "INTC"}, "token": {"manufacturer": "Yubico"}}
CLAIM = re.compile(r"not yet with|not been (tested|tried)|(?:was|were) tested with (?:AWS|real)")


def result(answer: str, number: int = 0, expected: str = "two tags") -> Result:
    question: Question[str] = Question(
        id=f"tags.two-ous-{number}",
        text="What becomes of a second OU?",
        expected=expected,
        source=Source(Origin.CHOICE, "the simplest"),
        rests_on=("hwsigner/emulator/tags.py: principal_tags", "docs/how-to/aws.md", "hwsigner/gone.py: lost"),
        ask=str,
    )
    return next(iter(ask_all([question], answer)))


def report(*answers: str, kind: str = "aws", **target: str) -> TrialReport:
    results = [result(answer, number) for number, answer in enumerate(answers)]
    return TrialReport(kind, date(2026, 1, 2), target or {"region": "eu-central-1"}, results)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the files that are made, with no report."""
    for name in tried.FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "trials").mkdir()
    (tmp_path / "hwsigner" / "emulator").mkdir(parents=True)
    (tmp_path / "hwsigner" / "trial").mkdir()
    (tmp_path / "hwsigner" / "emulator" / "tags.py").write_text("import re\n\n\ndef principal_tags() -> None: ...\n")
    (tmp_path / "hwsigner" / "trial" / "questions.md").write_text("|---|---|\n| tags.two-ous-1 | What becomes? |\n")
    assert tried.main([], tmp_path) == 0
    return tmp_path


def send(found: TrialReport, clone: Path) -> int:
    """Add a report to the clone as a maintainer does."""
    sent = clone / "sent.json"
    sent.write_text(found.to_json())
    return tried.main([str(sent)], clone)


def words(path: Path) -> str:
    return " ".join(path.read_text().split())


def test_texts_are_those_of_the_reports() -> None:
    assert [path for path, text in tried.made().items() if path.read_text() != text] == []


def test_without_reports_every_page_says_that_nothing_was_tried(clone: Path) -> None:
    assert "**not yet with AWS, real TPMs, real tokens or a Mac**" in words(clone / "README.md")
    assert "Not tried: AWS, real TPMs, real tokens, a Mac, a Kubernetes cluster." in words(clone / "README.md")
    assert "not been tried with AWS, real TPMs, real tokens or a Mac" in words(clone / "SECURITY.md")
    assert "**hwsigner is built for macOS, and was not tried on one**" in words(clone / "docs/start/macos.md")
    assert "**Nothing yet.**" in words(clone / "docs/reference/tried.md")


def test_a_report_changes_the_sentences_and_the_page(clone: Path) -> None:
    assert send(report("two tags", "one tag"), clone) == 0
    readme, page = words(clone / "README.md"), words(clone / "docs/reference/tried.md")
    assert "Tried with AWS (1 trial, 2 answers); **not yet with real TPMs, real tokens or a Mac**" in readme
    assert "1 answer differed" in readme
    assert "| AWS | region: eu-central-1 | 2026-01-02 |" in page
    assert "| 1 | 1 | 0 | `trials/trial-aws-2026-01-02.json` |" in page
    assert "| `two tags` | `one tag` |" in page
    assert (clone / "README.md").read_text().count("\n") <= 140  # As tests/cli/test_pages.py has it.
    assert "1 answer differed" in words(clone / "SECURITY.md")


def test_with_reports_of_each_kind_no_sentence_says_not_yet(clone: Path) -> None:
    for kind, system in (("aws", ""), ("tpm", ""), ("token", "macOS 15.1 arm64"), ("tpm", "debian 13 x86_64")):
        vendor = f"{kind} {len([*clone.glob('trials/*')])}"
        assert send(report("two tags", kind=kind, vendor=vendor, system=system), clone) == 0
    readme = words(clone / "README.md")
    assert (
        "Tried with AWS (1 trial, 1 answer), real TPMs (2 trials, 2 answers) and real tokens (1 trial, 1 answer): "
        in readme
    )
    assert "not yet" not in readme
    assert "differed" not in readme
    assert "Not tried: a Kubernetes cluster." in readme
    assert "was tried there: 1 report in" in words(clone / "docs/start/macos.md")
    assert "No answer of a report differs." in words(clone / "docs/reference/tried.md")


def test_without_its_file_a_report_is_not_spoken_of(clone: Path) -> None:
    before = words(clone / "README.md")
    assert send(report("two tags"), clone) == 0
    (clone / "trials" / "trial-aws-2026-01-02.json").unlink()
    assert tried.main([], clone) == 0
    assert words(clone / "README.md") == before


def test_an_answer_that_differs_becomes_an_issue_with_the_lines_to_change(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(report("two tags", "one tag"), clone)
    issue = capsys.readouterr().out
    assert issue.count("# AWS: ") == 1
    for expected in (
        "# AWS: tags.two-ous-1 differs",
        "| Expected | `two tags` |",
        "| Answer | `one tag` |",
        "choice: the simplest",
        "- `hwsigner/emulator/tags.py:4: principal_tags`",
        "- `docs/how-to/aws.md`",
        "- `hwsigner/gone.py: lost`",
        "- `hwsigner/trial/questions.md:2`: the expected answer",
    ):
        assert expected in issue


ANSWERS = ["arn:aws:iam::123456789012:role/web", "jo@example.com", "2001:db8:0:0:1:2:3:4", "AKIAIOSFODNN7EXAMPLE"]


@pytest.mark.parametrize("text", [*ANSWERS, "in /home/jo", "192.0.2.7", "1234567890123456"])
@pytest.mark.parametrize("place", ["answer", "why", "text", "chip"])
def test_a_report_that_identifies_somebody_is_refused_and_not_repeated(
    clone: Path, text: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report("one tag")
    fields = json.loads(found.to_json())
    fields["results"][0][place] = fields["target"]["chip"] = "unknown"
    (fields["target"] if place == "chip" else fields["results"][0])[place] = f"see {text}"
    assert send(TrialReport.from_json(json.dumps(fields)), clone) == 1
    assert [*(clone / "trials").iterdir()] == []
    error = capsys.readouterr().err
    assert "identifies somebody" in error
    assert text not in error


def test_a_report_that_says_nothing_or_what_can_t_be_is_refused(clone: Path) -> None:
    sound = report("two tags", "one tag")
    right, wrong = sound.results
    planted = {
        "kind": dataclasses.replace(sound, kind="moon"),
        "version": dataclasses.replace(sound, version="<b>"),
        "future": dataclasses.replace(sound, day=date.today() + timedelta(days=2)),
        "no target": dataclasses.replace(sound, target={}),
        "nothing asked": dataclasses.replace(sound, results=[]),
        "twice": dataclasses.replace(sound, results=[right, right]),
        "verdict": dataclasses.replace(sound, results=[dataclasses.replace(right, answer="one tag")]),
        "other verdict": dataclasses.replace(sound, results=[dataclasses.replace(wrong, answer="two tags")]),
        "id": dataclasses.replace(sound, results=[dataclasses.replace(right, id="a | b")]),
        "seconds": dataclasses.replace(sound, results=[dataclasses.replace(right, seconds=float("nan"))]),
    }
    assert [name for name, each in planted.items() if send(each, clone) == 0] == []
    assert [*(clone / "trials").iterdir()] == []
    assert send(sound, clone) == 0


SIMULATORS = ["SoftHSM v2", "SW   TPM", "swtpm", "mssim", "TPM simulator", "NSS Internal Crypto Services", "Soft"]


@pytest.mark.parametrize("emulated", [*SIMULATORS, "another endpoint", "the emulator"])
def test_a_report_of_an_emulator_is_refused(clone: Path, emulated: str) -> None:
    assert send(report("two tags", kind="tpm", vendor=emulated), clone) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", TABLES)
def test_a_report_with_the_expected_answer_to_each_question_is_added_and_its_lines_are_found(kind: str) -> None:
    questions = import_module("trial_aws.questions" if kind == "aws" else f"hwsigner.trial.{kind}.questions").QUESTIONS
    results = [next(iter(ask_all([dataclasses.replace(each, ask=str)], each.expected))) for each in questions]
    found = TrialReport(kind, date(2026, 1, 2), TABLES[kind], results)
    assert [*tried.problems(found)] == []
    differing = [dataclasses.replace(each, answer="other", verdict=Verdict.DIFFERS) for each in results]
    issues = [*tried.issues("trial.json", dataclasses.replace(found, results=differing))]
    lines = [line for issue in issues for line in issue.splitlines() if re.match("- `[a-z]+/.*[:#]", line)]
    assert [line for line in lines if not re.match(r"- `[\w/-]+\.(py|md):\d+", line)] == []
    assert len(issues) == len(questions)


def test_a_report_is_added_once(clone: Path) -> None:
    assert [send(report("two tags"), clone), send(report("two tags"), clone)] == [0, 1]
    assert len([*(clone / "trials").iterdir()]) == 1


def test_a_field_that_reports_do_not_have_is_refused(clone: Path) -> None:
    fields = {**json.loads(report("two tags").to_json()), "remark": "jo's chip"}
    (clone / "sent.json").write_text(json.dumps(fields))
    assert tried.main([str(clone / "sent.json")], clone) == 1


@pytest.mark.parametrize("answer", ["a | b", "<!-- made -->", "a\n<!-- made -->\nb", "``", "\x1b[1m", "\\1", ""])
def test_an_answer_is_one_cell_and_the_texts_stay_the_same_when_they_are_made_again(clone: Path, answer: str) -> None:
    assert send(report(answer, a=answer or "b"), clone) == 0
    page = (clone / "docs/reference/tried.md").read_text()
    assert tried.main([], clone) == 0
    assert (clone / "docs/reference/tried.md").read_text() == page
    rows = [line for line in page.splitlines() if line.startswith("| `trial-aws")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [6]
    assert "## Add a report" in page


def test_trial_of_a_token_on_linux_does_not_say_that_a_mac_was_tried(clone: Path) -> None:
    assert send(report("two tags", kind="token", vendor="Yubico", system="debian 13 x86_64"), clone) == 0
    assert "**not yet with AWS, real TPMs or a Mac**" in words(clone / "README.md")
    assert "not tried on one" in words(clone / "docs/start/macos.md")


def test_no_page_says_that_a_mac_was_not_tried_when_there_is_a_report_of_one() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    claims = [path for path in pages if re.search("not tried on (one|a Mac)", words(path))]
    assert claims
    assert not any(map(tried.is_of_mac, tried.reports().values())), f"Take it out of {claims}"


def test_no_other_page_says_what_was_not_tried() -> None:
    texts = {path: path.read_text() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}
    texts |= {path: re.sub(r"<!-- made from.*?\n\n", "", f"{text}\n", flags=re.DOTALL) for path, text in texts.items()}
    assert [path for path, text in texts.items() if CLAIM.search(" ".join(text.split()))] == []
