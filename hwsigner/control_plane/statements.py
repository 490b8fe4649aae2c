"""A statement of our own in a role's trust policy, beside those of others, which stay to the letter."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hwsigner.errors import ConfigError
from hwsigner.identity.session_tags import TAGS
from hwsigner.trust_policy import TrustPolicy, request_context
from hwsigner.trust_policy.writing import (
    HIGHEST_SIZE_LIMIT,
    SIZE_LIMIT,
    check_size,
    has_wildcard,
    size,
    write_trust_policy,
)

_MUCH_LATER = timedelta(days=3650)  # A statement that ends before lets no one in for good.


def with_statement(
    policy: Mapping[str, Any] | None, tags: Mapping[str, Sequence[str]], trust_anchor: str
) -> dict[str, Any]:
    """Return a trust policy to which a statement was added: certificates with these tags may assume the role.

    The policy is returned as it is if it has such a statement, or allows the same in another way.

    Args:
        policy: the policy of the role; None if there is no role yet.
        tags: for each session tag, one or more values.
        trust_anchor: the ARN of the trust anchor.

    Raises:
        UsageError: the new policy is larger than IAM accepts.
    """
    others = _statements(policy) if policy is not None else []
    new = write_trust_policy(tags, trust_anchor=trust_anchor)
    statement = {"Sid": _sid(others), **new["Statement"][0]}
    if policy is not None and (_has(others, statement) or _allows(policy, tags, trust_anchor)):
        return dict(policy)
    longer = {**(new if policy is None else policy), "Statement": [*others, statement]}
    # If IAM accepted a larger one, the account has a higher limit.
    is_raised = policy is not None and size(policy) > SIZE_LIMIT
    check_size(longer, HIGHEST_SIZE_LIMIT if is_raised else SIZE_LIMIT)
    return longer


def lets_in_otherwise(policy: Mapping[str, Any], tags: Mapping[str, Sequence[str]], trust_anchor: str) -> bool:
    """Return whether a policy lets in certificates with these tags, though no statement says just that."""
    [statement] = write_trust_policy(tags, trust_anchor=trust_anchor)["Statement"]
    return not _has(_statements(policy), statement) and _allows(policy, tags, trust_anchor)


def refusal(policy: Mapping[str, Any], tags: Mapping[str, Sequence[str]], trust_anchor: str) -> str:
    """Return why the policy refuses certificates with these tags all the same, such as a Deny; an empty string if not.

    Wildcards, and parts of a policy that the evaluator does not know, leave it open. That counts as no reason.
    """
    if any(map(has_wildcard, (value for values in tags.values() for value in values))):
        return ""
    try:
        return TrustPolicy(policy).refusal(_request(tags, trust_anchor, datetime.now(UTC)))
    except ConfigError:
        return ""


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """Return the lines that differ, with a few around them, each with a sign in front: "+", "-" or a space."""
    old = json.dumps(before, indent=2).splitlines() if before is not None else []
    lines = difflib.unified_diff(old, json.dumps(after, indent=2).splitlines(), lineterm="", n=3)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _statements(policy: Mapping[str, Any]) -> list[Any]:
    found = policy.get("Statement", [])
    return list(found) if isinstance(found, list) else [found]


def _has(statements: Sequence[Any], wanted: Mapping[str, Any]) -> bool:
    return any(_meaning(each) == _meaning(wanted) for each in statements)


def _allows(policy: Mapping[str, Any], tags: Mapping[str, Sequence[str]], trust_anchor: str) -> bool:
    values = [value for values in tags.values() for value in values]
    # With wildcards or several values, one request says nothing about the others.
    if len(values) > len(tags) or any(map(has_wildcard, values)):
        return False
    now = datetime.now(UTC)
    others = dict.fromkeys(TAGS, "any")
    requests = (_request(tags, trust_anchor, now), _request(tags, trust_anchor, now + _MUCH_LATER, others))
    try:
        return not any(TrustPolicy(policy).refusal(each) for each in requests)
    except ConfigError:
        return False


def _request(
    tags: Mapping[str, Sequence[str]], trust_anchor: str, now: datetime, others: Mapping[str, str] | None = None
) -> Any:
    """Return a request by a certificate with these names, and with others that the user did not name."""
    return request_context(
        trust_anchor=trust_anchor,
        tags={**(others or {}), **{name: values[0] for name, values in tags.items()}},
        session_name="1" if others else "0",
        source_identity="CN=" + next(iter(tags.get("x509Subject/CN", ())), "any" if others else ""),
        now=now,
    )


def _sid(others: Sequence[Any]) -> str:
    """Return an ID that says who wrote a statement, and that no other statement has."""
    used = [each.get("Sid") for each in others if isinstance(each, Mapping)]
    return next(sid for number in range(1, len(used) + 2) if (sid := f"Hwsigner{number}") not in used)


def _meaning(statement: object) -> object:
    """Return a statement without its Sid, in a form in which a list of one is its item, and order does not count."""
    if isinstance(statement, Mapping):
        return frozenset((key, _meaning(value)) for key, value in statement.items() if key != "Sid")
    if isinstance(statement, list):
        items = frozenset(map(_meaning, statement))
        return next(iter(items)) if len(items) == 1 else items
    return statement
