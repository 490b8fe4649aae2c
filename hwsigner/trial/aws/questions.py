"""All questions to AWS."""

from __future__ import annotations

from hwsigner.trial.aws import anchors, chains, leaves, private_ca, requests, revocation, samples, times
from hwsigner.trial.aws.plan import AWSQuestion

QUESTIONS: tuple[AWSQuestion, ...] = (
    *samples.QUESTIONS,
    *leaves.QUESTIONS,
    *chains.QUESTIONS,
    *anchors.QUESTIONS,
    *revocation.QUESTIONS,
    *requests.QUESTIONS,
    *times.QUESTIONS,
    *private_ca.QUESTIONS,
)
