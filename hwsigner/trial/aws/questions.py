"""All questions to AWS."""

from __future__ import annotations

from hwsigner.trial.aws import chains, leaves, private_ca, samples
from hwsigner.trial.aws.plan import AWSQuestion

QUESTIONS: tuple[AWSQuestion, ...] = (
    *samples.QUESTIONS,
    *leaves.QUESTIONS,
    *chains.QUESTIONS,
    *private_ca.QUESTIONS,
)
