"""All questions to a TPM, in the order in which they are asked."""

from __future__ import annotations

from hwsigner.trial.questions import NotAskedError, Origin, Question, Source
from hwsigner.trial.tpm import auth, basics, endorsement, keys, policies, sharing, writing
from hwsigner.trial.tpm.chip import TrialChip

TPMQuestion = Question[TrialChip]


def _only_in_a_trial(_: TrialChip) -> str:
    raise NotAskedError("nothing was kept to compare with")


# Asked last, of what was before the first one.
END: TPMQuestion = Question(
    "end.changed",
    "What has changed in the TPM but its clock?",
    "nothing",
    Source(Origin.CHOICE, "a TPM in use stays as it is: handles, indices, sessions, the count of wrong auth values"),
    ("docs/how-to/tpm.md",),
    _only_in_a_trial,
)
QUESTIONS: tuple[TPMQuestion, ...] = (
    *(*basics.QUESTIONS, *keys.QUESTIONS, *auth.QUESTIONS, *policies.QUESTIONS),
    *(*endorsement.QUESTIONS, *sharing.QUESTIONS, *writing.QUESTIONS),
)
