"""docs/how-to/doctor.md has the words of the code, and each mistake is planted by a test."""

from __future__ import annotations

import re

from hwsigner.findings import local
from mistakes import mistakes_of
from pages import ROOT

_TABLE = (ROOT / "docs" / "how-to" / "doctor.md").read_text().split("## All findings")[1]


def test_page_lists_every_mistake_in_the_words_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| (.*) \|$", _TABLE, re.MULTILINE)
    assert rows == [(each.id, each.why, each.fix) for each in mistakes_of(local)]


def test_each_mistake_is_planted() -> None:
    folder = ROOT / "tests" / "doctor"
    tests = "".join(path.read_text() for path in (folder / "test_planted.py", folder / "test_machine.py"))
    assert [each.id for each in mistakes_of(local) if f'"{each.id}"' not in tests] == []
