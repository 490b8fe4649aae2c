"""The tables of mistakes."""

from __future__ import annotations

from types import ModuleType

import pytest

from hwsigner.findings import Mistake, account, local, policies
from mistakes import mistakes_of

TABLES = (local, account, policies)


def test_no_two_mistakes_have_one_id() -> None:
    ids = [each.id for table in TABLES for each in mistakes_of(table)]
    assert len(ids) == len(set(ids)) > 100


@pytest.mark.parametrize("table", TABLES)
def test_constant_is_called_as_its_mistake(table: ModuleType) -> None:
    names = {name for name, value in vars(table).items() if isinstance(value, Mistake)}
    assert names == {each.id.upper().replace("-", "_") for each in mistakes_of(table)}


@pytest.mark.parametrize("table", TABLES)
def test_mistake_is_explained_in_short_sentences(table: ModuleType) -> None:
    for each in mistakes_of(table):
        texts = (each.why, each.fix)
        assert not [text for text in texts if text.endswith(".")]
        assert max(len(sentence.split()) for text in texts for sentence in text.split(". ")) <= 25, each.id
