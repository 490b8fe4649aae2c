"""All questions to AWS."""

from __future__ import annotations

from trial_aws import (
    alternative_names,
    anchors,
    chaining,
    chains,
    conditions,
    creating_roles,
    identities,
    keys,
    leaves,
    making_anchors,
    making_profiles,
    post_quantum,
    private_ca,
    requests,
    responses,
    revocation,
    tags,
    times,
    trust,
    waiting,
    words,
)
from trial_aws.plan import AWSQuestion

QUESTIONS: tuple[AWSQuestion, ...] = (
    *leaves.QUESTIONS,
    *chains.QUESTIONS,
    *anchors.QUESTIONS,
    *revocation.QUESTIONS,
    *requests.QUESTIONS,
    *responses.QUESTIONS,
    *times.QUESTIONS,
    *waiting.QUESTIONS,
    *words.QUESTIONS,
    *creating_roles.QUESTIONS,
    *making_anchors.QUESTIONS,
    *making_profiles.QUESTIONS,
    *tags.QUESTIONS,
    *alternative_names.QUESTIONS,
    *identities.QUESTIONS,
    *trust.QUESTIONS,
    *keys.QUESTIONS,
    *conditions.QUESTIONS,
    *chaining.QUESTIONS,
    *post_quantum.QUESTIONS,
    *private_ca.QUESTIONS,
)
