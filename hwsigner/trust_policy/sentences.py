"""Who may assume a role, in words: the statements of its trust policy as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwsigner.trust_policy.conditions import Condition
from hwsigner.trust_policy.openness import admits
from hwsigner.trust_policy.reading import Reader, Statement
from hwsigner.trust_policy.strangers import ANCHOR_KEYS, request_by

_VERBS = {
    "StringEquals": "is",
    "StringNotEquals": "is not",
    "StringEqualsIgnoreCase": "is, in upper or lower case,",
    "StringNotEqualsIgnoreCase": "is not, in upper or lower case,",
    "StringLike": "is like",
    "StringNotLike": "is not like",
    "ArnEquals": "is",
    "ArnLike": "is like",
    "ArnNotEquals": "is not",
    "ArnNotLike": "is not like",
    "Bool": "is",
    "DateLessThan": "is before",
    "DateLessThanEquals": "is not after",
    "DateGreaterThan": "is after",
    "DateGreaterThanEquals": "is not before",
}
_SHORT = {
    "aws:sourcearn": "the trust anchor",
    "aws:sourceaccount": "the trust anchor's account",
    "aws:currenttime": "the time",
    "sts:rolesessionname": "the session name",
    "sts:sourceidentity": "the source identity",
}


def who_may_assume(policy: Mapping[str, Any]) -> list[str]:
    """Return sentences that say who may assume a role. Parts of the policy that can't be read are left out."""
    return [sentence for statement in Reader(policy).statements for sentence in _sentences(statement)]


def admitted_anchors(policy: Mapping[str, Any], trust_anchors: Sequence[str]) -> list[str]:
    """Return those of some trust anchors that a policy does not keep out, whatever the certificate is."""
    statements = Reader(policy).statements
    return [each for each in trust_anchors if admits(statements, ANCHOR_KEYS, request_by(each))]


def _sentences(statement: Statement) -> Iterator[str]:
    verb = "lets in" if statement.allows else "keeps out"
    if statement.concerns_service and "sts:AssumeRole" in statement.actions:
        what = "every certificate of every trust anchor"
        if statement.conditions:
            what = f"certificates, if {' and '.join(map(_condition, statement.conditions))}"
        yield f"{statement.name} {verb} {what}"
    if statement.others or statement.everyone:
        others = "everyone" if statement.everyone else ", ".join(statement.others)
        yield f"{statement.name} {verb}, without Roles Anywhere, {others}"


def _condition(condition: Condition) -> str:
    quantifier, base, if_exists = condition.parts
    key, _, tag = condition.key.partition("/")
    is_tag = key.lower() in ("aws:principaltag", "aws:requesttag")
    name = tag if is_tag else _SHORT.get(condition.key.lower(), condition.key)
    if base == "Null":
        return f"{name} is {'missing' if 'true' in condition.values else 'there'}"
    values = " or ".join(map(repr, condition.values))
    or_missing = " or is missing" if quantifier == "ForAllValues" or if_exists else ""
    return f"{name} {_VERBS.get(base, base)} {values}{or_missing}"
