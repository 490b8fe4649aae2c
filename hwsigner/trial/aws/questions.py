"""All questions to AWS."""

from __future__ import annotations

from hwsigner.trial.aws import anchors, chains, leaves, private_ca, revocation, samples
from hwsigner.trial.aws.plan import AWSQuestion

QUESTIONS: tuple[AWSQuestion, ...] = (
    *samples.QUESTIONS,
    *leaves.QUESTIONS,
    *chains.QUESTIONS,
    *anchors.QUESTIONS,
    *revocation.QUESTIONS,
    *private_ca.QUESTIONS,
)
