"""docs/how-to/doctor.md has the words of the code, and each mistake is planted by a test."""

from __future__ import annotations

import re

from hwsigner.cli.doctor.findings import MISTAKES
from pages import ROOT

_TABLE = (ROOT / "docs" / "how-to" / "doctor.md").read_text().split("## All findings")[1]


def test_page_lists_every_mistake_in_the_words_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| (.*) \|$", _TABLE, re.MULTILINE)
    assert rows == [(name, mistake.why, mistake.fix) for name, mistake in MISTAKES.items()]


def test_each_mistake_is_planted() -> None:
    folder = ROOT / "tests" / "cli" / "doctor"
    tests = "".join(path.read_text() for path in (folder / "test_planted.py", folder / "test_machine.py"))
    assert {name for name in MISTAKES if f'"{name}"' not in tests} == set()
