"""The conditions of a trust policy, and the keys of a request.

The meaning is that of "Condition operators" and "Conditions with multiple context keys or values" in AWS's IAM User
Guide. What these pages leave open is refused, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from hwsigner.trust_policy.operators import OPERATORS, Compiled, Context

# The keys that requests are known to have, and what compares them. Names with a slash at the end are those of tags.
KEYS = {
    "aws:SourceArn": "text arn",
    "aws:SourceAccount": "text",
    "aws:PrincipalTag/": "text",
    "aws:RequestTag/": "text",
    "aws:TagKeys": "text",
    "aws:PrincipalServiceName": "text",
    "sts:RoleSessionName": "text",
    "sts:SourceIdentity": "text",
    "aws:OriginIdentity/Subject": "text",
    "aws:OriginIdentity/SubjectType": "text",
    "aws:PrincipalIsAWSService": "bool",
    "aws:CurrentTime": "date",
    "aws:EpochTime": "date number",
}
_KINDS = {key.lower(): kind for key, kind in KEYS.items()}
_MULTIVALUED = {"aws:tagkeys"}
_QUALIFIED = re.compile(r"(?:(ForAllValues|ForAnyValue):)?(\w+?)(IfExists)?", re.ASCII)


class OperatorParts(NamedTuple):
    """An operator's name, split: ForAllValues, ForAnyValue or nothing; the bare operator; whether it has IfExists."""

    quantifier: str
    base: str
    if_exists: bool


class Judgement(NamedTuple):
    """Whether a condition is met, or None if that is not known. If it is not met, the words say why."""

    met: bool | None
    words: str = ""


@dataclass(frozen=True)
class Condition:
    """One operator with one key and its values, as written in a policy. Make it with `parse`.

    Attributes:
        operator: the operator, such as "ForAnyValue:StringLikeIfExists".
        key: the key, such as "aws:PrincipalTag/x509Subject/CN".
        values: one or more, as text.
        parts: the operator, split.
        variables: the keys of the policy variables in the values.
    """

    operator: str
    key: str
    values: tuple[str, ...]
    parts: OperatorParts
    variables: tuple[str, ...]
    _tests: tuple[Compiled, ...]
    _has_variables: bool
    _unknown: str  # Why no request can be judged, or an empty string.

    @classmethod
    def parse(cls, name: str, key: str, values: tuple[str, ...], *, has_variables: bool) -> Condition:
        """Return a condition.

        Args:
            name: the operator.
            key: the key.
            values: the values.
            has_variables: whether the policy's Version has policy variables.

        Raises:
            ValueError: the operator is unknown, or a value is not of its type. The text completes "…: ".
        """
        match = _QUALIFIED.fullmatch(name)
        parts = OperatorParts(match[1] or "", match[2], bool(match[3])) if match else OperatorParts("", "", False)
        if parts.base not in OPERATORS or (parts.base == "Null" and (parts.quantifier or parts.if_exists)):
            raise ValueError(f"unknown operator {name}")
        if not values:
            raise ValueError(f"{name} {key} has no value")
        tests = []
        for value in values:
            try:
                tests.append(OPERATORS[parts.base].compile(value, has_variables))
            except ValueError as error:
                raise ValueError(f"{name} {key} has the value {value!r}, {error}") from error
        variables = tuple(variable for each in tests for variable in each.keys)
        unknown = _what_is_unknown(name, parts, key, variables)
        return cls(name, key, values, parts, variables, tuple(tests), has_variables, unknown)

    def judge(self, context: Context) -> Judgement:
        """Return whether a request meets the condition. An unknown key or variable makes that unknown."""
        if self._unknown:
            return Judgement(None, self._unknown)
        given = context.get(self.key.lower(), ())
        return Judgement(True) if self._is_met(given, context) else Judgement(False, self._requirement(given, context))

    def _is_met(self, given: tuple[str, ...], context: Context) -> bool:
        quantifier, base, if_exists = self.parts
        negated = OPERATORS[base].negated
        if base == "Null":
            return any(each.test("false" if given else "true", context) for each in self._tests)
        if not given and if_exists:
            return True

        def fits(value: str) -> bool:
            return any(each.test(value, context) for each in self._tests) != negated

        if quantifier == "ForAllValues":
            return all(fits(value) for value in given if value)
        if quantifier == "ForAnyValue":
            return any(fits(value) for value in given if value)
        return fits(given[0]) if given else negated

    def _requirement(self, given: tuple[str, ...], context: Context) -> str:
        wanted = " or ".join(map(repr, self.values))
        if self.variables:
            shown = (f"${{{key}}} is {_quoted(context.get(key.lower(), ()))}" for key in self.variables)
            wanted += f" ({', '.join(shown)})"
        elif not self._has_variables and "${" in wanted:
            wanted += " (only Version 2012-10-17 has variables)"
        actual = f"it is {_quoted(given)}" if given else "the request does not have it"
        return f"{self.operator} {self.key} {wanted}, but {actual}"


def _what_is_unknown(operator: str, parts: OperatorParts, key: str, variables: tuple[str, ...]) -> str:
    """Return why a condition's meaning is not known, or an empty string if it is."""
    for each in (key, *variables):
        if kind_of(each) is None:
            return f"unknown key {each}"
    kind = OPERATORS[parts.base].kind
    if kind not in ("null", *(kind_of(key) or "").split()):
        return f"unknown use of {operator} with {key}"
    several = [each for each in variables if each.lower() in _MULTIVALUED]
    if several or (key.lower() in _MULTIVALUED and kind != "null" and not parts.quantifier):
        where = f"in ${{{several[0]}}}" if several else f"with {operator}"
        return f"unknown meaning of a key with several values {where}"
    return ""


def kind_of(key: str) -> str | None:
    """Return what compares a key's values, or None if the key is unknown."""
    name, slash, tag = key.lower().partition("/")
    return _KINDS.get(key.lower() if name == "aws:originidentity" else name + slash) if not slash or tag else None


def _quoted(values: tuple[str, ...]) -> str:
    return ", ".join(map(repr, values)) or "missing"
