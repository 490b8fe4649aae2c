"""A question, its expected answer, and what came back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from hwsigner.errors import HwsignerError

Subject = TypeVar("Subject")


class Origin(StrEnum):
    """Where an expected answer comes from."""

    DOCUMENT = "document"  # The maker's document says so.
    OBSERVATION = "observation"  # Somebody saw it, or it was read in another program.
    CHOICE = "choice"  # Nobody says; hwsigner chose.


class Verdict(StrEnum):
    """What the answer is, beside the expected one."""

    EXPECTED = "as expected"
    DIFFERS = "differs"
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Source:
    """Where an expected answer comes from: a document and its section, or who saw it; for a choice, the reason."""

    origin: Origin
    where: str


@dataclass(frozen=True)
class Question(Generic[Subject]):
    """One question.

    Attributes:
        id: its name, such as "tags.two-ous": lower case, unique in its table.
        text: the question, in one sentence that ends with a question mark.
        expected: the expected answer. It has no account numbers, names, addresses or times.
        source: where the expected answer comes from.
        rests_on: what changes if the answer differs: pages with anchors, and lines of the emulator as
            "hwsigner/emulator/tags.py: principal_tags".
        ask: asks the subject and returns the answer. It raises NotAskedError if it can't be asked here. A refusal that
            the question is about is an answer, not an exception.
    """

    id: str
    text: str
    expected: str
    source: Source
    rests_on: tuple[str, ...]
    ask: Callable[[Subject], str]


class NotAskedError(HwsignerError):
    """A question that can't be asked here. The problem says why."""


@dataclass(frozen=True)
class Result:
    """What came back: the answer, or why the question was not asked; the other one is empty.

    The text, the source and what rests on it are the question's, so that a report can be read without this version of
    hwsigner.
    """

    id: str
    verdict: Verdict
    expected: str
    answer: str
    why: str
    seconds: float
    text: str
    source: Source
    rests_on: tuple[str, ...]


def ask_all(questions: Iterable[Question[Subject]], subject: Subject) -> Iterator[Result]:
    """Ask the questions in order, and yield what came back. One that fails differs, and does not end the others."""
    for question in questions:
        begin = time.monotonic()
        try:
            answer, why = question.ask(subject), ""
        except HwsignerError as error:
            answer, why = "", error.message
        except Exception as error:
            # What came back has another form than the expected one. The error's text may have a name or a secret.
            answer, why = f"the question failed with {type(error).__name__}", ""
        asked = Verdict.EXPECTED if answer == question.expected else Verdict.DIFFERS
        yield Result(
            id=question.id,
            verdict=Verdict.NOT_ASKED if why else asked,
            expected=question.expected,
            answer=answer,
            why=why,
            seconds=round(time.monotonic() - begin, 3),
            text=question.text,
            source=question.source,
            rests_on=question.rests_on,
        )
