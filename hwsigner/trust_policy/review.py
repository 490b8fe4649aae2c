"""What is open or wrong in a trust policy: `review` returns findings, each with what to write.

It also explains documents that `TrustPolicy` refuses. A policy without findings names its trust anchors and
certificates, and Roles Anywhere can use it.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hwsigner.errors import ConfigError
from hwsigner.findings import LEVELS, OPEN, Finding, Mistake, policies
from hwsigner.trust_policy import ACTIONS, SERVICE, TrustPolicy
from hwsigner.trust_policy.conditions import OPERATORS, Condition, Context, kind_of, unlisted
from hwsigner.trust_policy.naming import WIDE, named_by
from hwsigner.trust_policy.openness import admits, named_anchor, named_anchors, open_statements, shut
from hwsigner.trust_policy.others import about_others
from hwsigner.trust_policy.reading import Reader, Statement, is_met_by_others
from hwsigner.trust_policy.strangers import ANCHOR_KEYS, is_about, request_by
from hwsigner.trust_policy.writing import HIGHEST_SIZE_LIMIT, size

__all__ = ["Finding", "review"]

_NAMES = "CN|O|OU|C|ST|L|SN|GN|DC|SERIALNUMBER|E|UID"
_TAG = re.compile(f"x509(?:Subject|Issuer)/(?:{_NAMES})|x509SAN/(?:DNS|URI|Name/(?:{_NAMES}))", re.IGNORECASE)
_ANCHOR = re.compile(
    r"arn:aws[a-z-]*:rolesanywhere:[a-z0-9-]+:\d{12}:trust-anchor/[0-9A-Za-z]{8}(?:-[0-9A-Za-z]{4}){3}-[0-9A-Za-z]{12}"
)
_LITERAL = re.compile(r"\$\{[*?$]\}")  # No tag has one of these characters.
_LONGEST_VALUE = 256
_UNTIL = ("DateLessThan", "DateLessThanEquals", "NumericLessThan", "NumericLessThanEquals")
_SINCE = ("DateGreaterThan", "DateGreaterThanEquals", "NumericGreaterThan", "NumericGreaterThanEquals")


def review(
    document: str | bytes | Mapping[str, Any],
    *,
    trust_anchor: str = "",
    now: datetime | None = None,
    size_limit: int = HIGHEST_SIZE_LIMIT,
) -> list[Finding]:
    """Return what is open or wrong in a trust policy: first what is open, then what is wrong, then what is unclear.

    The document, JSON or the object that it contains, need not be a policy. `trust_anchor` is the ARN of the one that
    should be let in; an empty string for any. `now` has its zone; None is the clock's time. `size_limit` is how many
    characters the account's trust policies may have.
    """
    try:
        policy = json.loads(document, parse_int=str, parse_float=str) if isinstance(document, str | bytes) else document
    except (ValueError, RecursionError) as error:
        return [policies.NOT_A_POLICY.found(f"the document is not JSON: {error}")]
    if not isinstance(policy, Mapping):
        return [policies.NOT_A_POLICY.found("the document is not a JSON object")]
    too_large = [policies.POLICY_TOO_LARGE.found(f"the trust policy has {size(policy)} characters")]
    if size(policy) > HIGHEST_SIZE_LIMIT:  # Nor would it be judged in time.
        return too_large
    reader = Reader(policy)
    now = now or datetime.now(UTC)
    never_met = {each.name: list(_never_met(each, now)) for each in reader.statements}
    found = [*reader.findings, *_what_is_open(reader.statements, never_met, trust_anchor)]
    accounts = [arn.split(":")[4] for arn in (trust_anchor, *named_anchors(reader.statements)) if arn]
    found += (each for entry, read in reader.written for each in about_others(entry, read, accounts))
    found += _about_statements(reader.statements)
    found += itertools.chain(*never_met.values())
    if trust_anchor and not any(each.mistake is policies.SOURCE_ARN_KIND for each in found):
        found += _about_anchor(reader.statements, trust_anchor)
    found += _about_refusal(document, found)
    found += too_large if size(policy) > size_limit else []
    if not found:
        found += shut([_from_now_on(each, now) for each in reader.statements], trust_anchor)
    return sorted(dict.fromkeys(found), key=lambda each: LEVELS.index(each.level))


def _what_is_open(
    statements: list[Statement], never_met: Mapping[str, list[Finding]], trust_anchor: str
) -> Iterator[Finding]:
    """Yield what is open. Statements that let in no one leave nothing open, nor does a policy that lets in no one."""
    dead = [each for each in statements if never_met[each.name] or any(map(_is_unmeetable, each.conditions))]
    living = [each for each in statements if not each.allows or each not in dead]
    found = list(open_statements(living, trust_anchor)) if _allowed(living) == _allowed(statements) else []
    may_clash = len(statements) > 1 or any(len(each.conditions) > 2 for each in statements)
    if found and may_clash and not any(each.everyone or each.unread for each in statements):
        closed = [each for each in shut(living, trust_anchor) if each.mistake is policies.SHUT]
        found = closed or found
    yield from found
    for each in statements:
        if each.allows and each.everyone:
            yield policies.PRINCIPAL_EVERYONE.found(f"{each.name} is for everyone: its Principal is *")


def _allowed(statements: Sequence[Statement]) -> set[str]:
    return {action for each in statements if each.allows and each.concerns_service for action in each.actions}


def _about_refusal(document: str | bytes | Mapping[str, Any], found: list[Finding]) -> Iterator[Finding]:
    """Yield what the evaluator refuses, unless other findings explain it."""
    try:
        TrustPolicy(document)
    except ConfigError as error:
        if all(each.level == OPEN for each in found):
            yield policies.NOT_JUDGED.found(error.message)


def _about_statements(statements: list[Statement]) -> Iterator[Finding]:
    allowing = [each for each in statements if each.allows and each.concerns_service]
    if not allowing:
        others = sorted({repr(other) for each in statements if each.allows for other in each.others})
        words = f"; the principals are {', '.join(others)}" if others else ""
        yield policies.PRINCIPAL_WRONG.found(f"no statement allows {SERVICE} anything{words}")
    else:
        missing = [each for each in ACTIONS if not any(each in statement.actions for statement in allowing)]
        for action in missing:
            names = " or ".join(each.name for each in allowing)
            yield policies.ACTION_MISSING.found(f"{names} does not have {action}", f"Add {action} to the Action")
    for statement in statements:
        denies = statement.actions if statement.concerns_service and not statement.allows else set()
        if denies and not statement.conditions and not statement.unread:
            yield policies.DENIED_ALWAYS.found(f"{statement.name} denies {', '.join(sorted(denies))}")
        for condition in statement.conditions:
            yield from _about_condition(statement, condition)
        yield from _about_keys(statement)


def _about_keys(statement: Statement) -> Iterator[Finding]:
    """Yield the keys that AWS does not list for an action of the statement, if the session's fate depends on them."""
    for condition in statement.conditions:
        is_met_without = condition.judge({}).met
        if "sts:AssumeRole" in statement.actions and is_met_without == statement.allows:
            continue  # AssumeRole has every key, so it decides.
        for key, lacking in unlisted([condition], [each for each in ACTIONS if each in statement.actions]):
            yield policies.KEY_BY_ACTION.found(f"{statement.name} has {key} for {' and '.join(lacking)}")


def _about_condition(statement: Statement, condition: Condition) -> Iterator[Finding]:
    """Yield what can't match in a condition."""
    where = f"{statement.name} has {condition.operator} {condition.key}"
    key, _, tag = condition.key.lower().partition("/")
    if tag and key in ("aws:principaltag", "aws:requesttag") and not _TAG.fullmatch(tag):
        yield policies.TAG_IMPOSSIBLE.found(where)
    elif condition.judge({}).met is None and kind_of(condition.key):
        yield policies.NOT_JUDGED.found(f"{statement.name}: {condition.judge({}).words}")
    base = condition.parts.base
    is_always_there = key in ANCHOR_KEYS and not OPERATORS[base].negated
    if statement.allows and is_always_there and (condition.parts.if_exists or "ForAll" in condition.operator):
        yield policies.NEEDLESS.found(where)
    names = statement.allows and not is_met_by_others(condition.operator)
    if OPERATORS[base].kind in ("text", "arn"):
        for value in condition.values:
            if mistake := _impossible(condition.key.lower(), base, value):
                yield mistake.found(f"{where} {value!r}")
            elif names and named_by(condition.key.lower(), value) == WIDE:
                yield policies.PATTERN_WIDE.found(f"{where} {value!r}")


def _impossible(key: str, base: str, value: str) -> Mistake | None:
    """Return the mistake that makes a value one that no request has, or None."""
    plain = re.sub(r"\$\{[^{}]*\}", "", value)
    has_wildcards = re.search(r"[*?]", plain) is not None
    is_equals = base.startswith(("StringEquals", "StringNotEquals"))
    if is_equals and has_wildcards:
        return policies.WILDCARD_LITERAL
    if key == "aws:sourcearn":
        return None if plain != value or _may_be_anchor(value, has_wildcards) else policies.SOURCE_ARN_KIND
    if key == "sts:sourceidentity" and plain == value:
        return None if re.match(r"CN=|ID=|[*?]|C[*?]|CN[*?]|.{62}", value) else policies.SOURCE_IDENTITY_PREFIX
    if key.startswith(("aws:principaltag/", "aws:requesttag/")):
        if not value and not OPERATORS[base].negated:
            return policies.VALUE_EMPTY
        text = plain if is_equals else re.sub(r"[*?]", "", plain)
        is_possible = len(text) <= _LONGEST_VALUE and all(map(_is_of_tags, text)) and not _LITERAL.search(value)
        return None if is_possible else policies.VALUE_IMPOSSIBLE
    return None


def _is_of_tags(character: str) -> bool:
    return character in "_.:/=+-@" or unicodedata.category(character)[0] in "LZN"


def _may_be_anchor(value: str, has_wildcards: bool) -> bool:
    """Return whether a value of aws:SourceArn can be a trust anchor's ARN, as far as its parts show."""
    if not has_wildcards:
        return _ANCHOR.fullmatch(value) is not None
    parts = value.split(":", 5)
    start = re.split(r"[*?]", parts[5])[0] if len(parts) == 6 else ""
    service = parts[2] if len(parts) > 2 else "*"
    is_service = service == "rolesanywhere" or re.search(r"[*?]", service) is not None
    return is_service and (start.startswith("trust-anchor/") or "trust-anchor/".startswith(start))


def _never_met(statement: Statement, now: datetime) -> Iterator[Finding]:
    """Yield why an Allow statement matches no request any more."""
    if statement.allows:
        yield from _about_values(statement)
        yield from _about_dates(statement, now)


def _is_unmeetable(condition: Condition) -> bool:
    """Return whether no request has its values: all are empty, or variables that the policy's Version has not."""
    is_text = OPERATORS[condition.parts.base].kind == "text" and not is_met_by_others(condition.operator)
    is_old = not condition.variables
    return is_text and all(not each or (is_old and re.search(r"\$\{[^*?$]", each)) for each in condition.values)


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


def _from_now_on(statement: Statement, now: datetime) -> Statement:
    """Return a statement without the conditions of a Deny on a time that has come: waiting does not help."""
    if statement.allows:
        return statement
    context = _times(now)
    conditions = [
        each
        for each in statement.conditions
        if each.key.lower() not in context or each.parts.base not in _SINCE or not each.judge(context).met
    ]
    return replace(statement, conditions=conditions)


def _times(now: datetime) -> Context:
    return {
        "aws:currenttime": (f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",),
        "aws:epochtime": (f"{int(now.timestamp())}",),
    }


def _about_dates(statement: Statement, now: datetime) -> Iterator[Finding]:
    context = _times(now)
    for condition in statement.conditions:
        key, base = condition.key.lower(), condition.parts.base
        if key in context and base in _UNTIL and condition.judge(context).met is False:
            yield policies.DATE_PASSED.found(
                f"{statement.name} has {condition.operator} {condition.key} {condition.values[0]!r}"
            )


def _about_anchor(statements: list[Statement], trust_anchor: str) -> Iterator[Finding]:
    """Yield the conditions that keep out the trust anchor that should be let in."""
    context = request_by(trust_anchor)
    allowing = [each for each in statements if each.allows and each.concerns_service]
    if admits(statements, ANCHOR_KEYS, context):
        return
    for statement in allowing:
        named = [value for each in statement.conditions if is_about(each.key, ANCHOR_KEYS) for value in each.values]
        for words in named_anchor(statement, context):
            yield policies.SOURCE_ARN_OTHER.found(
                f"{statement.name} requires {words}{_difference(named, trust_anchor)}"
            )


def _difference(named: list[str], trust_anchor: str) -> str:
    """Return how the ARN of a policy differs from the trust anchor's, in words."""
    given = trust_anchor.split(":", 5)
    for value in named:
        parts = value.split(":", 5)
        if len(parts) == 6:
            kinds = {"partition": 1, "region": 3, "account": 4}
            other = [kind for kind, place in kinds.items() if parts[place] != given[place]]
            return f" (another {' and '.join(other)})" if other else ""
    return ""
