"""The questions about a module and a token, in the order in which they are asked: `questions.md`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.errors import HwsignerError
from hwsigner.trial.questions import NotAskedError, Question, Result, ask_all
from hwsigner.trial.table import read_questions
from hwsigner.trial.token import about_keys, about_sessions, about_token
from hwsigner.trial.token.subject import TriedToken

TokenQuestion = Question[TriedToken]
_ASKS = {**about_token.ASKS, **about_sessions.ASKS, **about_keys.ASKS}
QUESTIONS: tuple[TokenQuestion, ...] = read_questions(Path(__file__).with_name("questions.md"), _ASKS)


def ask(question: TokenQuestion, tried: TriedToken) -> Result:
    """Ask a question. What the module refuses, and the question is not about, is why it is not asked."""

    def without_names(tried: TriedToken) -> str:
        try:
            return question.ask(tried)
        except NotAskedError:
            raise
        except PKCS11Error as error:
            raise NotAskedError(f"the module answers {error.name}") from error
        except HwsignerError as error:  # Its message may have the token's label, or a path.
            raise NotAskedError(f"hwsigner raised {type(error).__name__}") from error

    [result] = ask_all((replace(question, ask=without_names),), tried)
    return result
