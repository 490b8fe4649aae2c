"""`make questions`: write docs/reference/questions.md, the questions that a trial asks AWS."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from trial_aws.plan import AWSQuestion
from trial_aws.questions import QUESTIONS

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "questions.md"
_EMULATOR = "hwsigner/emulator/"
_CODE = (_EMULATOR, "hwsigner/trust_policy/")
_INTRODUCTION = """\
# Questions to AWS

[`make trial-aws`](../how-to/field-trials.md) asks AWS these questions, and [the
emulator](../how-to/emulator.md) gives the expected answers. Each table has, for each question, the answer that hwsigner
expects, and where that answer comes from: a *document* of AWS, an *observation* of users or in other programs, or a
*choice* of hwsigner, because nobody says. Marks such as [A1] are those of [the AWS side](../how-to/aws.md#sources). The
last column has the code of the emulator that gives the answer. `make questions` writes this page.
"""


def page() -> str:
    """Return the page, in Markdown."""
    return "\n".join((_INTRODUCTION, *_sections()))


def _sections() -> Iterator[str]:
    for area, questions in itertools.groupby(sorted(QUESTIONS, key=_area), key=_area):
        yield f"## {area}\n"
        yield "| Question | Expected answer | Source | Emulator |\n|---|---|---|---|"
        yield from map(_row, questions)
        yield ""


def _area(question: AWSQuestion) -> str:
    return question.id.partition(".")[0]


def _row(question: AWSQuestion) -> str:
    source = f"*{question.source.origin}*: {_plain(question.source.where)}"
    places = (each.removeprefix(_EMULATOR) for each in question.rests_on if each.startswith(_CODE))
    code = ", ".join(f"`{each.removeprefix('hwsigner/')}`" for each in places)
    return f"| `{question.id}`: {_plain(question.text)} | {_plain(question.expected)} | {source} | {code} |"


def _plain(text: str) -> str:
    """Return text that is shown as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", " ".join(text.split()))


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
