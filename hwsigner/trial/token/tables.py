"""What the tables of questions about tokens share."""

from __future__ import annotations

from hwsigner.trial.questions import Origin, Question, Source
from hwsigner.trial.token.subject import TriedToken

TokenQuestion = Question[TriedToken]


def spec(section: str) -> Source:
    """Return a section of PKCS #11 3.1, or of the version before the section, as a source."""
    return Source(Origin.DOCUMENT, section if section.startswith("PKCS #11") else f"PKCS #11 3.1, {section}")


def seen(where: str) -> Source:
    """Return modules that answer so as a source."""
    return Source(Origin.OBSERVATION, where)


def chosen(why: str) -> Source:
    """Return a choice of hwsigner as a source."""
    return Source(Origin.CHOICE, why)


def yes_or(problem: str) -> str:
    """Return `yes`, or the problem if there is one."""
    return problem or "yes"
