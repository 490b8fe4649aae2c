"""All questions to AWS."""

from __future__ import annotations

from hwsigner.trial.aws import (
    alternative_names,
    anchors,
    chaining,
    chains,
    conditions,
    identities,
    keys,
    leaves,
    private_ca,
    requests,
    revocation,
    samples,
    tags,
    times,
    trust,
)
from hwsigner.trial.aws.plan import AWSQuestion

QUESTIONS: tuple[AWSQuestion, ...] = (
    *samples.QUESTIONS,
    *leaves.QUESTIONS,
    *chains.QUESTIONS,
    *anchors.QUESTIONS,
    *revocation.QUESTIONS,
    *requests.QUESTIONS,
    *times.QUESTIONS,
    *tags.QUESTIONS,
    *alternative_names.QUESTIONS,
    *identities.QUESTIONS,
    *trust.QUESTIONS,
    *keys.QUESTIONS,
    *conditions.QUESTIONS,
    *chaining.QUESTIONS,
    *private_ca.QUESTIONS,
)
