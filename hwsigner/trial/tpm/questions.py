"""All questions to a TPM, in the order in which they are asked: `questions.md`.

They can be listed without tpm2-pytss: `ASKS` of `trial.py` has what asks them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hwsigner.trial.questions import Question
from hwsigner.trial.table import read_questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwsigner.trial.tpm.chip import TrialChip

TPMQuestion: TypeAlias = "Question[TrialChip]"
Ask: TypeAlias = "Callable[[TrialChip], str]"
QUESTIONS: tuple[TPMQuestion, ...] = read_questions(Path(__file__).with_name("questions.md"))
# Asked of what was before the first one.
END = QUESTIONS[-1]
