"""What the trials share: which questions are asked, and whether the user agrees."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from hwsigner.errors import UsageError
from hwsigner.trial.questions import Question

_Asked = TypeVar("_Asked", bound=Question[Any])


def show_questions(questions: Sequence[Question[Any]], patterns: Sequence[str]) -> int:
    """Print the questions, their expected answers, where these come from and what rests on them."""
    for each in selected(questions, patterns):
        print(f"{each.id}: {each.text}")
        print(f"    expected: {each.expected}")
        print(f"    source:   {each.source.origin}: {each.source.where}")
        print(f"    rests on: {', '.join(each.rests_on)}")
    return 0


def selected(questions: Sequence[_Asked], patterns: Sequence[str]) -> list[_Asked]:
    """Return the questions whose IDs match one of the patterns; all if there are no patterns.

    Raises:
        UsageError: no question matches a pattern.
    """
    for pattern in patterns:
        if not any(fnmatchcase(each.id, pattern) for each in questions):
            raise UsageError(f"--only {pattern} is the name of no question", "See --list")
    return [each for each in questions if not patterns or any(fnmatchcase(each.id, one) for one in patterns)]


def confirm(question: str) -> None:
    """Ask on the terminal.

    Raises:
        UsageError: the answer is not yes, or there is no terminal.
    """
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was made or deleted", "Answer y, or add --yes")
