"""What the tables of questions about tokens share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hwsigner.trial.questions import Question, Source, document, observation
from hwsigner.trial.token.subject import TriedToken

TokenQuestion = Question[TriedToken]
FOUR_MODULES = observation("SoftHSM 2.6, libykcs11 2.7, OpenSC 0.26, tpm2-pkcs11 1.9")


class TokenRow(NamedTuple):
    """The name and the text of a question to a token."""

    id: str
    text: str

    def expects(self, answer: str, source: Source, ask: Callable[[TriedToken], str], *rests_on: str) -> TokenQuestion:
        """Return the question."""
        return TokenQuestion(self.id, self.text, answer, source, rests_on, ask)


def spec(section: str) -> Source:
    """Return a section of PKCS #11 3.1, or of the version before the section, as a source."""
    return document(section if section.startswith("PKCS #11") else f"PKCS #11 3.1, {section}")


def yes_or(problem: str) -> str:
    """Return `yes`, or the problem if there is one."""
    return problem or "yes"
