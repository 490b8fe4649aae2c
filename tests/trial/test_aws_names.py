"""Questions to AWS about names, tags, keys and conditions: emulators that answer otherwise are found."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwsigner.emulator import Emulator, tags
from hwsigner.emulator.differences import Difference
from hwsigner.emulator.iam_policies import read_policy
from hwsigner.emulator.refusals import RefusalError
from hwsigner.trial import Result, TrialReport, Verdict
from hwsigner.trust_policy import conditions
from hwsigner.trust_policy.writing import SIZE_LIMIT
from trial_aws.calls import TrialPace
from trial_aws.life import try_all
from trial_aws.plan import plan_of
from trial_aws.questions import QUESTIONS
from trial_aws.tags import unmapped

pytestmark = pytest.mark.slow

Flags = Callable[..., argparse.Namespace]
Ask = Callable[..., dict[str, Result]]
_SHORT = "the serial number in lower-case hexadecimal, without leading zeros"
# For each difference about names and policies, a question that finds it, and its answer.
FOUND = {
    Difference.FIRST_VALUE: ("tags.two-ous", "b, the first"),
    Difference.OID_TAGS: ("tags.title", unmapped(subject="2.5.4.12")),
    Difference.BAD_NAMES_IGNORED: ("tags.ampersand", "no tag"),
    Difference.LATER_DNS_IGNORED: ("san.dns-second-wildcard", "the tag is there"),
    Difference.BARE_SOURCE_IDENTITY: ("source-identity.cn", "the CN"),
    Difference.UPPER_CASE_SERIAL: (
        "session-name.odd",
        "the serial number in upper-case hexadecimal, two digits a byte",
    ),
    Difference.SUBJECT_BY_CA: ("subject.ca", "another"),
    Difference.EVERY_KEY: ("keys.source-identity", "all three"),
    Difference.FOR_ALL_NEEDS_KEY: ("conditions.missing-all", "refused"),
    Difference.ARN_STAR: ("trust.arn-star", "refused"),
    Difference.MAPPINGS_MERGED: ("mappings.narrowed", "a tag"),
}


@pytest.fixture
def ask(flags: Flags, pace: TrialPace, tmp_path: Path) -> Ask:
    """Return what asks some questions, and returns the results by ID."""

    def asked(*ids: str) -> dict[str, Result]:
        try_all(flags(*(word for each in ids for word in ("--only", each))), pace)
        (path,) = tmp_path.glob("trial-aws-*.json")
        return {each.id: each for each in TrialReport.from_json(path.read_text()).results}

    return asked


@pytest.mark.parametrize("difference", FOUND)
def test_difference_is_found_with_the_other_answer(emulator: Emulator, ask: Ask, difference: Difference) -> None:
    question, answer = FOUND[difference]
    emulator.world.differing = {difference}
    result = ask(question)[question]
    assert (result.verdict, result.answer) == (Verdict.DIFFERS, answer)


_NO_UID = {oid: name for oid, name in tags._NAMES.items() if name != "UID"}
_NOT_TO_SET = {**conditions._BY_NAME, "sts:sourceidentity": ("sts:AssumeRole",)}
_IGNORING_CASE = {**conditions.OPERATORS, "StringEquals": conditions.OPERATORS["StringEqualsIgnoreCase"]}
CHANGES: list[tuple[str, Any, str, str]] = [
    ("emulator.tags._NAMES", _NO_UID, "tags.names", "not each does"),
    ("emulator.tags._is_tag", lambda value: len(value) <= 256, "tags.ampersand", "a tag with this value"),
    ("emulator.tags._is_tag", str.isascii, "tags.umlauts", unmapped(subject="OU")),
    ("emulator.tags._MAX_PREFIXED_NAME", 64, "source-identity.62", "CN= and the CN"),
    ("emulator.tags.default_session_name", lambda leaf, _: f"{leaf.serial_number:x}", "session-name.odd", _SHORT),
    ("emulator.parameters._SESSION_NAME", re.compile("[a-z]{1,64}"), "session-name.one", "taken"),
    (
        "emulator.sessions.by_arn",
        dict.get,
        "trust.alias",
        "403 AccessDeniedException: Specified Trust Anchor wasn't found.",
    ),
    ("emulator.sts._LONGEST_CHAINED", 43200, "chaining.longer", "let in"),
    ("trust_policy.conditions._BY_NAME", _NOT_TO_SET, "keys.source-identity", "sts:AssumeRole"),
    ("trust_policy.conditions.OPERATORS", _IGNORING_CASE, "conditions.equals-case", "let in"),
    (
        "trust_policy._is_for_service",
        lambda principal, _: "Service" in principal,
        "trust.principal-everyone",
        "refused",
    ),
    ("trust_policy._names_action", str.__eq__, "trust.action-star", "refused"),
]


@pytest.mark.parametrize(("place", "other", "question", "answer"), CHANGES)
def test_changed_emulator_is_found(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, place: str, other: Any, question: str, answer: str
) -> None:
    monkeypatch.setattr(f"hwsigner.{place}", other)
    result = ask(question)[question]
    assert (result.verdict, result.answer) == (Verdict.DIFFERS, answer)


def _refusing(part: str, message: str, times: int = 1000) -> Callable[..., Any]:
    """Return what IAM's reading of policies is replaced with: it refuses those with a part, so many times."""
    left = itertools.repeat(None, times)

    def read(text: str, *more: Any) -> Any:
        if part in text and next(left, 0) is None:
            raise RefusalError("MalformedPolicyDocument", 400, message)
        return read_policy(text, *more)

    return read


def test_question_whose_role_iam_refuses_for_another_one_s_statement_is_asked_by_itself(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsigner.emulator.iam.read_policy", _refusing("tags-names", "Unknown key"))
    found = ask("tags.names", "tags.email")
    assert found["tags.names"].answer == "IAM refuses the policy: MalformedPolicyDocument"
    assert found["tags.email"].verdict is Verdict.EXPECTED


def test_role_that_trusts_another_one_is_made_again_until_iam_knows_that_one(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = _refusing("role/hwsigner-trial/", "Invalid principal in policy", times=2)
    monkeypatch.setattr("hwsigner.emulator.iam.read_policy", refusing)
    assert ask("chaining.tags")["chaining.tags"].verdict is Verdict.EXPECTED


def test_role_that_trusts_everyone_lets_nobody_in_but_by_the_trials_anchor() -> None:
    statements = [each for role in plan_of(QUESTIONS).roles for each in role.policy["Statement"]]
    open_to_all = [each for each in statements if each["Principal"] == {"AWS": "*"}]
    assert [each["Condition"]["ArnEquals"] for each in open_to_all] == [{"aws:SourceArn": "<<anchor:main>>"}]


def test_roles_are_few_and_their_policies_as_long_as_iam_takes_at_most() -> None:
    roles = plan_of(QUESTIONS).roles
    assert len(roles) <= 80
    texts = (re.sub("<<.*?>>", "a" * 110, json.dumps(each.policy, separators=(",", ":"))) for each in roles)
    assert max(map(len, texts)) <= SIZE_LIMIT
