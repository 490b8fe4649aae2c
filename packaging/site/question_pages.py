"""The reference of the questions that a trial asks AWS, made from the sources, and links to it from the pages."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from hwsigner.trial.aws.plan import AWSQuestion
from hwsigner.trial.aws.questions import QUESTIONS
from markup import code, plain

# The pages whose statements rest on answers, and name the questions.
PAGES = ("how-to/aws.md", "how-to/emulator.md")
_AREAS = {each.id.partition(".")[0] for each in QUESTIONS}
_ID = re.compile(rf"`(({'|'.join(sorted(_AREAS))})\.[a-z0-9-]+)`")
_INTRODUCTION = """\
# Questions to AWS

[`python -m hwsigner.trial aws`](../how-to/field-trials.md) asks AWS these questions. For each one, the table has the
answer that hwsigner expects, and where that answer comes from: a *document* of AWS, an *observation* of users, or a
*choice* of hwsigner, because nobody says. [The emulator](../how-to/emulator.md) gives the expected answers.
"""


def write_page(source: Path) -> None:
    """Write the page into the site's sources, and links to it into the pages that name questions."""
    (source / "reference" / "questions.md").write_text(page())
    for name in PAGES:
        path = source / name
        path.write_text(_ID.sub(r"[\g<0>](../reference/questions.md#\2)", path.read_text()))


def ids(text: str) -> set[str]:
    """Return the IDs of questions that a page names."""
    return {match[1] for match in _ID.finditer(text)}


def page() -> str:
    """Return the page, in Markdown."""
    parts = [_INTRODUCTION]
    for area, questions in itertools.groupby(sorted(QUESTIONS, key=_area), key=_area):
        rows = ["| Question | Expected answer | Source |", "|---|---|---|", *map(_row, questions)]
        parts += [f"## {area}", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def _area(question: AWSQuestion) -> str:
    return question.id.partition(".")[0]


def _row(question: AWSQuestion) -> str:
    source = f"{question.source.origin}: {question.source.where}"
    asked = f"{code(question.id)}: {plain(question.text)}"
    return f"| {asked} | {plain(question.expected)} | {plain(source)} |"
