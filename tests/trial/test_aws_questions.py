"""The table of questions to AWS."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import hwsigner
from trial_aws.plan import AWSQuestion, needs_of, plan_of
from trial_aws.questions import QUESTIONS
from trial_aws.wanted import Wanted

ROOT = Path(hwsigner.__file__).parents[1]
IDS = [each.id for each in QUESTIONS]


def test_ids_are_unique() -> None:
    assert sorted({each for each in IDS if IDS.count(each) > 1}) == []


def test_trial_imports_only_hwsigner_itself_and_libraries() -> None:
    """It runs from the source distribution without what the tests need."""
    found: set[str] = set()
    for path in (ROOT / "tests" / "trial_aws").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found |= {each.name for each in node.names} if isinstance(node, ast.Import) else set()
            found |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    others = {each.partition(".")[0] for each in found} - sys.stdlib_module_names
    assert others == {"hwsigner", "trial_aws", "cryptography", "asn1crypto"}


def test_there_are_at_least_eighty_questions() -> None:
    assert len(QUESTIONS) >= 80


def _slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def _problem(place: str) -> str:
    """Return what is wrong with one of the places that rest on a question; an empty string if nothing is."""
    name, _, member = place.partition(": ")
    name, _, anchor = name.partition("#")
    path = ROOT / name
    if not path.is_file():
        return f"{name} does not exist"
    text = path.read_text()
    if path.suffix == ".md":
        slugs = {_slug(line.lstrip("#")) for line in text.splitlines() if line.startswith("#")}
        return "" if not anchor or anchor in slugs else f"{name} has no #{anchor}"
    names = {getattr(node, "name", getattr(node, "id", "")) for node in ast.walk(ast.parse(text))}
    return "" if not member or member.rpartition(".")[2] in names else f"{name} has no {member}"


@pytest.mark.parametrize("question", QUESTIONS, ids=IDS)
def test_question_is_whole_and_what_rests_on_it_exists(question: AWSQuestion) -> None:
    assert re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", question.id)
    assert question.text.endswith("?")
    assert question.expected
    assert question.source.where
    assert question.rests_on
    assert [problem for each in question.rests_on if (problem := _problem(each))] == []


def test_what_questions_need_by_the_same_name_is_the_same() -> None:
    plan = plan_of(QUESTIONS)
    planned: list[Wanted] = [*plan.anchors, *plan.roles, *plan.profiles, *plan.crls]
    made = {(type(each), each.name): each for each in planned}
    needs = [(question.id, need) for question in QUESTIONS for need in needs_of(question)]
    assert [(name, need.name) for name, need in needs if made[type(need), need.name] != need] == []
