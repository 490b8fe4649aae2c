"""All questions to AWS."""

from __future__ import annotations

from hwsigner.trial.aws import chains, leaves, samples
from hwsigner.trial.aws.plan import AWSQuestion

QUESTIONS: tuple[AWSQuestion, ...] = (*samples.QUESTIONS, *leaves.QUESTIONS, *chains.QUESTIONS)
