"""The questions about a module and a token, in the order in which they are asked."""

from __future__ import annotations

from dataclasses import replace

from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.errors import HwsignerError
from hwsigner.trial.questions import NotAskedError, Result, ask_all
from hwsigner.trial.token import (
    about_module,
    about_objects,
    about_processes,
    about_searches,
    about_sessions,
    about_signing,
    about_token,
    about_writing,
)
from hwsigner.trial.token.subject import TriedToken
from hwsigner.trial.token.tables import TokenQuestion

# Those before `login.shared` send no PIN. Those after `delete.others` end the login.
QUESTIONS = (
    *about_module.QUESTIONS,
    *about_token.QUESTIONS,
    *about_sessions.BEFORE_LOGIN,
    *about_searches.QUESTIONS,
    *about_objects.QUESTIONS,
    *about_sessions.AFTER_LOGIN,
    *about_processes.QUESTIONS,
    *about_writing.QUESTIONS,
    *about_signing.QUESTIONS,
    *about_writing.DELETION,
    *about_processes.FORKS,
    *about_sessions.LAST,
)


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
