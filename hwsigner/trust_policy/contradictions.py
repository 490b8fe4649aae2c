"""Statements that never match: conditions that exclude each other, and dates that have passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from hwsigner.findings import Finding, policies
from hwsigner.trust_policy.conditions import Condition
from hwsigner.trust_policy.operators import Context
from hwsigner.trust_policy.reading import Statement

_UNTIL = ("DateLessThan", "DateLessThanEquals")


def never_met(statements: Sequence[Statement], now: datetime) -> Iterator[Finding]:
    """Yield why Allow statements match no request any more.

    Args:
        statements: the policy's.
        now: the time, with its zone.
    """
    for statement in statements:
        if statement.allows:
            yield from _about_values(statement)
            yield from _about_dates(statement, now)


def _about_values(statement: Statement) -> Iterator[Finding]:
    """Yield the keys none of whose listed values meets all conditions on the key."""
    by_key: dict[str, list[Condition]] = {}
    for condition in statement.conditions:
        by_key.setdefault(condition.key.lower(), []).append(condition)
    for key, conditions in by_key.items():
        lists = [each for each in conditions if each.operator == "StringEquals"]
        has_variables = any("${" in value for each in conditions for value in each.values)
        if not lists or len(conditions) < 2 or has_variables:
            continue
        contexts: list[Context] = [{key: (value,)} for value in lists[0].values]
        if not any(all(each.judge(context).met is not False for each in conditions) for context in contexts):
            words = " and ".join(f"{each.operator} {' or '.join(map(repr, each.values))}" for each in conditions)
            yield policies.CONTRADICTION.found(f"{statement.name} has for {lists[0].key}: {words}")


def _about_dates(statement: Statement, now: datetime) -> Iterator[Finding]:
    context: Context = {
        "aws:currenttime": (f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",),
        "aws:epochtime": (f"{int(now.timestamp())}",),
    }
    for condition in statement.conditions:
        key, base = condition.key.lower(), condition.parts.base
        if key in context and base in _UNTIL and condition.judge(context).met is False:
            yield policies.DATE_PASSED.found(
                f"{statement.name} has {condition.operator} {condition.key} {condition.values[0]!r}"
            )
