"""The questions to AWS on the pages: each choice names its question, and each named question exists."""

from __future__ import annotations

import ast
import re

import pytest

import question_pages
from hwsigner.trial.aws.questions import QUESTIONS
from pages import ROOT

TEXTS = {name: (ROOT / "docs" / name).read_text() for name in question_pages.PAGES}
PLACES = {place for question in QUESTIONS for place in question.rests_on}


@pytest.mark.parametrize("name", TEXTS)
def test_each_question_that_a_page_names_exists(name: str) -> None:
    assert question_pages.ids(TEXTS[name]) - {each.id for each in QUESTIONS} == set()


def test_made_page_has_every_question() -> None:
    page = question_pages.page()
    assert [each.id for each in QUESTIONS if f"`{each.id}`" not in page] == []


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
