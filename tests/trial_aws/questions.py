"""All questions to AWS: the table, with what asks them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    requests,
    revocation,
    tags,
    trust,
    waiting,
)
from trial_aws.plan import Ask, AWSQuestion

_MODULES: tuple[Any, ...] = (
    *(leaves, chains, anchors, revocation, requests, waiting, post_quantum),
    *(making_anchors, tags, identities, trust, keys, conditions, chaining),
)
_ASKS: Mapping[str, Ask] = {name: ask for module in _MODULES for name, ask in module.ASKS.items()}

QUESTIONS: tuple[AWSQuestion, ...] = read_questions(Path(__file__).with_name("questions.md"), _ASKS)
