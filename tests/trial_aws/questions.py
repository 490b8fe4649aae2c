"""All questions to AWS: the tables, with what asks them."""

from __future__ import annotations

from pathlib import Path

from hwsigner.trial.table import read_questions
from trial_aws import (
    anchors,
    chaining,
    chains,
    conditions,
    identities,
    keys,
    leaves,
    making_anchors,
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
_POLICIES = making_anchors, tags, identities, trust, keys, conditions, chaining

QUESTIONS: tuple[AWSQuestion, ...] = tuple(
    question
    for table, modules in (("questions.md", _CERTIFICATES), ("policies.md", _POLICIES))
    for question in read_questions(
        _FOLDER / table, {name: ask for module in modules for name, ask in module.ASKS.items()}
    )
)
