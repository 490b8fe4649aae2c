"""All questions to AWS: the tables, with what asks them."""

from __future__ import annotations

from pathlib import Path

from hwsigner.trial.table import read_questions
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
    revocation,
    tags,
    trust,
    waiting,
)
from trial_aws.plan import AWSQuestion

_FOLDER = Path(__file__).parent
_CERTIFICATES = leaves, chains, anchors, revocation, requests, waiting, post_quantum, private_ca
_ASKS = {name: ask for module in _CERTIFICATES for name, ask in module.ASKS.items()}

QUESTIONS: tuple[AWSQuestion, ...] = (
    *read_questions(_FOLDER / "questions.md", _ASKS),
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
)
