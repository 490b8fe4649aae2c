"""The review of generated policies with known answers: no open one is called fine, and few others are called open."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from hwsigner.trust_policy.review import review
from trust_policy import iam
from trust_policy.generated import ACTIONS, ANCHOR, NO_ONE, NOW, OPEN, REQUESTS, SHUT, Case, cases

POLICIES, SEED, PARTS = 4500, 40, 9


@cache
def policies() -> list[Case]:
    return list(cases(POLICIES, SEED))


def is_let_in(case: Case, request: iam.Request) -> bool:
    return all(iam.allows(case.policy, action, request) for action in ACTIONS)


def answer_of(case: Case) -> str:
    """Return what the review makes of a policy: OPEN, "not-decided", NO_ONE, "unclear" or "fine"."""
    found = review(case.policy, trust_anchor=ANCHOR, now=NOW)
    levels = {each.level for each in found}
    if "open" in levels:
        return OPEN
    if any(each.id == "not-decided" for each in found):
        return "not-decided"
    return NO_ONE if "wrong" in levels else "unclear" if found else "fine"


def judge(part: list[Case]) -> None:
    answers = {(each.name, each.answer, answer_of(each)) for each in part}
    assert not [each for each in answers if each[1] == OPEN and each[2] != OPEN]
    assert not [each for each in answers if each[1] == SHUT and each[2] not in ("fine", "unclear")]
    assert not [each for each in answers if each[1] == NO_ONE and each[2] == "fine"]
    counted = Counter(answer_of(each) for each in part if each.answer == NO_ONE)
    assert counted[OPEN] + counted["not-decided"] <= len(part) // 100


@pytest.mark.slow
def test_generated_policies_have_the_answers_that_the_documents_give() -> None:
    for case in policies():
        assert case.request is None or is_let_in(case, case.request), case.name
        assert case.answer != OPEN or (case.request and not case.is_meant(case.request)), case.name
        assert case.answer != SHUT or (case.request and case.is_meant(case.request)), case.name


@pytest.mark.slow
@pytest.mark.parametrize("number", range(PARTS))
def test_strangers_do_not_get_into_generated_policies_that_are_not_open(number: int) -> None:
    for case in policies()[number :: PARTS * 15]:
        if case.answer != OPEN:
            assert not [each for each in REQUESTS if not case.is_meant(each) and is_let_in(case, each)], case.name


def test_answers_of_some_generated_policies_are_right() -> None:
    judge(list(cases(30, SEED + 1)))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(PARTS))
def test_answers_of_many_generated_policies_are_right(number: int) -> None:
    judge(policies()[number::PARTS])
