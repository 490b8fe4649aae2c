"""What IAM decides about a session of Roles Anywhere: a second evaluator of trust policies, for tests.

It shares nothing with hwsigner's. It was written from AWS's documents: of the IAM User Guide "Policy evaluation logic",
"AWS JSON policy elements" (Principal, NotPrincipal, Action, NotAction), "Condition operators", "Set operators for
multivalued context keys" and "Variables and tags"; "Actions defined by AWS STS" of the Service Authorization Reference;
and "Trust model" of the Roles Anywhere User Guide. The policies have to be valid: it refuses nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

Json = Mapping[str, Any]
SERVICE = "rolesanywhere.amazonaws.com"
_ANY_TEXT, _ANY_CHARACTER = object(), object()
_Symbols = list[object]  # Characters and the two wildcards.


@dataclass(frozen=True)
class Request:
    """What Roles Anywhere asks of STS for one certificate."""

    anchor: str
    tags: Mapping[str, str]
    session_name: str
    source_identity: str
    now: datetime
    origin_identity: Mapping[str, str] = field(default_factory=dict)

    def keys(self, action: str) -> dict[str, list[str]]:
        """Return the values of the keys that requests for an action have, by the key's name in lower case."""
        keys = {
            "aws:SourceArn": [self.anchor],
            "aws:SourceAccount": [self.anchor.split(":")[4]],
            "aws:PrincipalServiceName": [SERVICE],
            "aws:PrincipalIsAWSService": ["true"],
            "aws:CurrentTime": [self.now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")],
            "aws:EpochTime": [str(int(self.now.timestamp()))],
        }
        keys.update({f"aws:PrincipalTag/{tag}": [value] for tag, value in self.tags.items()})
        keys.update({f"aws:OriginIdentity/{name}": [value] for name, value in self.origin_identity.items()})
        if action in ("sts:AssumeRole", "sts:TagSession") and self.tags:
            keys["aws:TagKeys"] = list(self.tags)
            keys.update({f"aws:RequestTag/{tag}": [value] for tag, value in self.tags.items()})
        if action in ("sts:AssumeRole", "sts:SetSourceIdentity"):
            keys["sts:SourceIdentity"] = [self.source_identity]
        if action == "sts:AssumeRole":
            keys["sts:RoleSessionName"] = [self.session_name]
        return {key.lower(): values for key, values in keys.items()}


def allows(policy: Json, action: str, request: Request) -> bool:
    """Return whether a policy allows an action: some statement allows it, and none denies it."""
    effects = {
        statement["Effect"]
        for statement in _listed(policy["Statement"])
        if _is_for_roles_anywhere(statement)
        and _has_action(statement, action)
        and _Request(request.keys(action), policy.get("Version") == "2012-10-17").meets(statement.get("Condition", {}))
    }
    return effects == {"Allow"}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_for_roles_anywhere(statement: Json) -> bool:
    """Return whether a statement is for the service's principal. An asterisk is everyone."""

    def is_named(principals: Any) -> bool:
        if principals == "*":
            return True
        return SERVICE in _listed(principals.get("Service", [])) or "*" in _listed(principals.get("AWS", []))

    return is_named(statement["Principal"]) if "Principal" in statement else not is_named(statement["NotPrincipal"])


def _has_action(statement: Json, action: str) -> bool:
    def is_named(actions: Any) -> bool:
        return any(_fits(_without_variables(each.lower()), action.lower()) for each in _listed(actions))

    return is_named(statement["Action"]) if "Action" in statement else not is_named(statement["NotAction"])


def _without_variables(text: str) -> _Symbols:
    wildcards = {"*": _ANY_TEXT, "?": _ANY_CHARACTER}
    return [wildcards.get(each, each) for each in text]


def _fits(pattern: _Symbols, text: str) -> bool:
    """Return whether a text fits, by all lengths of its beginning that fit what was read of the pattern."""
    lengths = {0}
    for symbol in pattern:
        if symbol is _ANY_TEXT:
            lengths = set(range(min(lengths), len(text) + 1)) if lengths else set()
        else:
            lengths = {n + 1 for n in lengths if n < len(text) and symbol in (_ANY_CHARACTER, text[n])}
    return len(text) in lengths


def _date(text: str) -> datetime:
    """Read a date of W3C's note on ISO 8601, or seconds since 1970."""
    for form in ("%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z", "%Y-%m-%d", "%Y-%m"):
        try:
            found = datetime.strptime(text, form)
        except ValueError:
            continue
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return datetime.fromtimestamp(float(text), UTC)


def _compared(read: Callable[[str], Any], relation: str) -> Callable[[str, str], bool]:
    """Return whether a request's value has a relation to a policy's."""

    def compare(value: str, wanted: str) -> bool:
        mine, theirs = read(value), read(wanted)
        order = (mine > theirs) - (mine < theirs)
        return order in {"Equals": (0,), "LessThan": (-1,), "LessThanEquals": (-1, 0)}.get(
            relation, (1,) if relation == "GreaterThan" else (1, 0)
        )

    return compare


def _is_in_network(value: str, wanted: str) -> bool:
    return ipaddress.ip_address(value) in ipaddress.ip_network(wanted)


_RELATIONS = ("Equals", "LessThan", "LessThanEquals", "GreaterThan", "GreaterThanEquals")
# Operators whose values have neither wildcards nor variables.
_PLAIN: Mapping[str, Callable[[str, str], bool]] = {
    "Bool": lambda value, wanted: value.lower() == wanted.lower(),
    "IpAddress": _is_in_network,
    **{f"Date{each}": _compared(_date, each) for each in _RELATIONS},
    **{f"Numeric{each}": _compared(Fraction, each) for each in _RELATIONS},
}
_WITH_VARIABLES = ("StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnEquals", "ArnLike")
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "DateNotEquals": "DateEquals",
    "NumericNotEquals": "NumericEquals",
    "NotIpAddress": "IpAddress",
}
OPERATORS = ("Null", *_PLAIN, *_WITH_VARIABLES, *_NEGATED)


class _Request:
    """The keys of a request for one action, held against conditions of one policy."""

    def __init__(self, keys: Mapping[str, list[str]], has_variables: bool) -> None:
        self._keys = keys
        self._has_variables = has_variables

    def meets(self, condition: Json) -> bool:
        """Return whether each key of each operator is as the condition wants it."""
        return all(
            self._meets(operator, self._keys.get(key.lower(), []), list(map(_text_of, _listed(wanted))))
            for operator, keys in condition.items()
            for key, wanted in keys.items()
        )

    def _meets(self, operator: str, given: list[str], wanted: list[str]) -> bool:
        if operator == "Null":  # A key with an empty value counts as null: "exists and its value is not null".
            return ("false" if any(given) else "true") in (each.lower() for each in wanted)
        if operator.endswith("IfExists"):
            return not given or self._meets(operator.removesuffix("IfExists"), given, wanted)
        quantifier, _, base = operator.rpartition(":")
        if quantifier == "ForAllValues":  # Also true if there are no values, or only empty ones.
            return all(self._one(base, value, wanted) for value in given if value)
        if quantifier == "ForAnyValue":
            return any(self._one(base, value, wanted) for value in given if value)
        if not given:
            return base in _NEGATED
        return self._one(base, given[0], wanted)

    def _one(self, operator: str, value: str, wanted: Iterable[str]) -> bool:
        """Compare one value: it must be one of those wanted, or with a negated operator none of them."""
        if operator in _NEGATED:
            return not self._one(_NEGATED[operator], value, wanted)
        if operator in _PLAIN:
            return any(_PLAIN[operator](value, each) for each in wanted)
        return any(self._equals(operator, value, each) for each in wanted)

    def _equals(self, operator: str, value: str, wanted: str) -> bool:
        symbols = self._read(wanted)
        if operator.startswith("Arn"):
            return self._is_arn(value, symbols)
        if operator == "StringLike":
            expanded = self._expanded(symbols)
            return expanded is not None and _fits(expanded, value)
        back = {_ANY_TEXT: "*", _ANY_CHARACTER: "?"}  # No wildcards: the characters.
        expanded = self._expanded(symbols, back)
        if operator == "StringEquals":
            return expanded == list(value)
        return expanded is not None and [str(each).lower() for each in expanded] == list(value.lower())

    def _is_arn(self, value: str, symbols: _Symbols) -> bool:
        """Compare the six parts one by one, each with wildcards; only the sixth may have colons."""
        parts: list[_Symbols] = [[]]
        for symbol in symbols:
            if symbol == ":" and len(parts) < 6:
                parts.append([])
            else:
                parts[-1].append(symbol)
        given = value.split(":", 5)
        expanded = list(map(self._expanded, parts))
        return len(given) == len(parts) == 6 and all(
            part is not None and _fits(part, text) for part, text in zip(expanded, given, strict=True)
        )

    def _read(self, text: str) -> _Symbols:
        """Return a value's characters, wildcards and, as _Variable, policy variables, which Version 2012-10-17 has."""
        if not self._has_variables:
            return _without_variables(text)
        found: _Symbols = []
        while text:
            end = text.find("}", 3) if text.startswith("${") else -1
            if end < 0:
                found += _without_variables(text[0])
                text = text[1:]
                continue
            name, text = text[2:end], text[end + 1 :]
            found.append(name if name in ("*", "?", "$") else _Variable(name))
        return found

    def _expanded(self, symbols: _Symbols, instead: Mapping[object, str] | None = None) -> _Symbols | None:
        """Replace variables. One without value and default is null, which no value is equal to or like."""
        found: _Symbols = []
        for symbol in symbols:
            if not isinstance(symbol, _Variable):
                found.append((instead or {}).get(symbol, symbol))
                continue
            key, comma, default = symbol.name.partition(", ")
            values = self._keys.get(key.lower(), [])
            if not values and not comma:
                return None
            found += list(values[0] if values else default.strip("'"))
        return found


@dataclass(frozen=True)
class _Variable:
    name: str


def _text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
