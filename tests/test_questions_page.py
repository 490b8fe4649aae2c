"""The questions to AWS, and the pages whose statements rest on the answers."""

from __future__ import annotations

import ast
import re

import pytest

from pages import ROOT
from trial_aws.questions import QUESTIONS

IDS = {each.id for each in QUESTIONS}
PLACES = {place for question in QUESTIONS for place in question.rests_on}
AREAS = "|".join(sorted({each.partition(".")[0] for each in IDS}))
NAMED = re.compile(rf"`((?:{AREAS})\.[a-z0-9-]+)`")


@pytest.mark.parametrize("name", ["how-to/aws.md", "how-to/emulator.md"])
def test_questions_that_a_page_names_exist(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    assert {*NAMED.findall(text)} - IDS == set()


def test_each_fact_that_no_document_tells_names_its_questions() -> None:
    text = (ROOT / "docs" / "how-to" / "aws.md").read_text()
    facts = text.partition("## What AWS documents, and what was only observed\n")[2].partition("\n### ")[0]
    rows = [row for row in facts.splitlines() if re.search(r"\[H\]|\[U\d\]|observed|not documented", row)]
    assert len(rows) >= 5
    assert [row for row in rows if row.startswith("|") and not NAMED.search(row)] == []


@pytest.mark.parametrize("place", sorted(each for each in PLACES if ".md" in each))
def test_page_that_rests_on_an_answer_has_the_heading(place: str) -> None:
    path, _, anchor = place.partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), re.MULTILINE)
    slugs = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
    assert not anchor or anchor in slugs


@pytest.mark.parametrize("place", sorted(each for each in PLACES if ".py" in each))
def test_line_that_rests_on_an_answer_has_the_name(place: str) -> None:
    path, _, name = place.partition(": ")
    tree = ast.parse((ROOT / path).read_text())
    names = {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.ClassDef)}
    names |= {each.id for each in ast.walk(tree) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    assert not name or name.rpartition(".")[2] in names
