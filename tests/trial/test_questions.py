"""What a trial makes of answers."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import pytest

from hwsigner.errors import HwsignerError
from hwsigner.trial import NotAskedError, Origin, Question, Result, Scrubber, Source, TrialReport, Verdict, ask_all

QUESTION: Question[str] = Question(
    id="echo.word",
    text="Which word comes back?",
    expected="word",
    source=Source(Origin.CHOICE, "the simplest"),
    rests_on=("docs/how-to/aws.md",),
    ask=str,
)


def _results(*questions: Question[str], subject: str = "word") -> list[Result]:
    return list(ask_all(questions, subject))


@pytest.mark.parametrize(("answer", "verdict"), [("word", Verdict.EXPECTED), ("other", Verdict.DIFFERS)])
def test_an_answer_is_compared_with_the_expected_one(answer: str, verdict: Verdict) -> None:
    (result,) = _results(QUESTION, subject=answer)
    assert (result.verdict, result.expected, result.answer) == (verdict, "word", answer)


def test_a_question_that_fails_differs_without_the_exceptions_text_and_the_others_are_asked() -> None:
    def fail(_: str) -> str:
        raise KeyError("a-secret")

    def refuse(_: str) -> str:
        raise NotAskedError("there is no Private CA")

    broken, lacking = (dataclasses.replace(QUESTION, ask=ask) for ask in (fail, refuse))
    first, second, third = _results(broken, lacking, QUESTION)
    assert [each.verdict for each in (first, second, third)] == [
        Verdict.DIFFERS,
        Verdict.NOT_ASKED,
        Verdict.EXPECTED,
    ]
    assert (first.answer, first.why) == ("the question failed with KeyError", "")
    assert second.why == "there is no Private CA"


def _report(*answers: str) -> TrialReport:
    questions = [dataclasses.replace(QUESTION, id=f"echo.{number}") for number in range(len(answers))]
    results = [_results(each, subject=answer)[0] for each, answer in zip(questions, answers, strict=True)]
    return TrialReport("aws", date(2026, 1, 2), {"region": "eu-central-1"}, results)


def test_a_report_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    report = _report("word", "other")
    written, page = report.write(tmp_path)
    assert written.name == "trial-aws-2026-01-02.json"
    assert TrialReport.from_json(written.read_text()) == report
    assert "| echo.1 | Which word comes back? | word | other | docs/how-to/aws.md |" in page.read_text()


def test_equal_answers_are_one_group_below_what_probably_made_them_differ() -> None:
    report = dataclasses.replace(_report("word", "busy", "other", "busy"), headline="No session succeeds: busy")
    page = report.to_markdown()
    assert page.index("**No session succeeds: busy**") < page.index("hwsigner ")
    group, others = page.partition("### 2 times: busy\n")[2].split("### Others\n")
    assert ("| echo.1 |" in group, "| echo.3 |" in group, "| echo.2 |" in group) == (True, True, False)
    assert "| echo.2 |" in others
    assert TrialReport.from_json(report.to_json()) == report
    scrub = Scrubber()
    scrub.hide("busy", "word")
    assert report.scrubbed(scrub).headline == "No session succeeds: (word)"


def test_a_result_has_its_question_s_text_source_and_what_rests_on_it() -> None:
    (result,) = _results(QUESTION)
    assert (result.text, result.source, result.rests_on) == (QUESTION.text, QUESTION.source, QUESTION.rests_on)


def test_a_second_report_of_a_day_does_not_replace_the_first(tmp_path: Path) -> None:
    names = {path.name for _ in range(3) for path in _report("word").write(tmp_path)}
    assert len(names) == 6


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"results": [1]}', '{"results": [{"verdict": "maybe"}]}'])
def test_a_file_that_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(HwsignerError, match="not a report"):
        TrialReport.from_json(text)


def test_a_scrubbed_report_has_no_account_key_arn_address_or_hidden_value() -> None:
    secrets = [
        *("123456789012", "ASIAIOSFODNN7EXAMPLE", "arn:aws:iam::123456789012:role/web", "192.0.2.7", "me@example.com"),
        *("0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa", "chip-serial", "/home/jo", "2001:db8:0:1:2:3:4:5", "fe80::1:2"),
        *(
            "arn%3Aaws%3Aiam%3A%3A210987654321%3Arole%2Fweb",
            "2101-2345-6789",
            "2101 2345 6789",
            "my_210987654321_bucket",
        ),
        *("210987654321.vpce-0123456789abcdef0.rolesanywhere.eu-central-1.vpce.amazonaws.com", "x%3A210987654322"),
        *(
            "ip-10-1-2-3.eu-central-1.compute.internal",
            "00:1a:2b:3c:4d:5e",
            "9f86d081884c7d659a2f",
            "12345678901234567890",
            "IQoJb3JpZ2luX2Vj" * 4,
        ),
    ]
    scrub = Scrubber()
    scrub.hide("chip-serial", "serial")
    report = dataclasses.replace(_report(*secrets), target={"account": "123456789012"}).scrubbed(scrub)
    text = report.to_json() + report.to_markdown()
    assert [each for each in secrets if each in text] == []
    assert "(serial)" in text


@pytest.mark.parametrize(
    "text",
    [
        "1.3.6.1.4.1.311.20.2.3",
        "x509Subject/2.5.4.5",
        "2.5.29.15",
        "version 3.0.17",
        "at 12:30:05",
        "0x81000100",
        "rolesanywhere.amazonaws.com",
    ],
)
def test_a_scrubbed_report_keeps_oids_and_versions(text: str) -> None:
    assert Scrubber()(text) == text


def test_an_answer_with_bytes_that_are_not_text_does_not_lose_the_report(tmp_path: Path) -> None:
    report = _report("label \udcff")
    written, page = report.write(tmp_path)
    assert TrialReport.from_json(written.read_text()) == report
    assert "label" in page.read_text()
