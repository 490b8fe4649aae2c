"""The conditions of a trust policy: their operators, the keys of a request, and policy variables.

The meaning is that of "Condition operators", "Conditions with multiple context keys or values" and "Variables and tags"
in AWS's IAM User Guide. What these pages leave open is refused, never guessed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

# The values of a request's keys, by the key's name in lower case. A key that the request lacks has no values.
Context = Mapping[str, tuple[str, ...]]
# Whether a value of the request matches one value of a condition.
Test = Callable[[str, Context], bool]

# The keys that requests are known to have, and what compares them. Names with a slash at the end are those of tags.
KEYS = {
    "aws:sourcearn": "text arn",
    "aws:sourceaccount": "text",
    "aws:principaltag/": "text",
    "aws:requesttag/": "text",
    "aws:tagkeys": "text",
    "aws:principalservicename": "text",
    "sts:rolesessionname": "text",
    "sts:sourceidentity": "text",
    **dict.fromkeys(("aws:originidentity/subject", "aws:originidentity/subjecttype"), "text"),
    "aws:principalisawsservice": "bool",
    "aws:currenttime": "date",
    "aws:epochtime": "date number",
}
_MULTIVALUED = {"aws:tagkeys"}
_TOKEN = re.compile(
    r"\$\{(?P<literal>[*?$])\}|\$\{(?P<key>[\w:.+=@/ -]+)(?:, '(?P<default>[^']*)')?\}|(?P<wildcard>[*?])"
    r"|(?P<text>[^$*?]+|\$(?!\{))"
)
_TOKEN_WITHOUT_VARIABLES = re.compile(r"(?P<wildcard>[*?])|(?P<text>[^*?]+)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d))?", re.ASCII)
_SECONDS = re.compile(r"\d{5,12}(?:\.\d+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_QUALIFIED = re.compile(r"(?:(ForAllValues|ForAnyValue):)?(\w+?)(IfExists)?", re.ASCII)


class _Pattern:
    """A value with wildcards and policy variables, which are not yet replaced.

    Raises:
        ValueError: a policy variable is malformed.
    """

    def __init__(self, text: str, *, has_variables: bool) -> None:
        token = _TOKEN if has_variables else _TOKEN_WITHOUT_VARIABLES
        self._tokens = list(token.finditer(text))
        if sum(len(each[0]) for each in self._tokens) < len(text):
            raise ValueError("a malformed policy variable")
        self.keys = [each["key"] for each in self._tokens if each.groupdict().get("key")]

    def regex(self, context: Context, *, wildcards: bool) -> str | None:
        """Return a regular expression, or None if a variable has neither a value nor a default."""
        parts = [""]  # Those between asterisks.
        for token in self._tokens:
            found = token.groupdict()
            if wildcards and found["wildcard"] == "*":
                parts.append("")
            elif wildcards and found["wildcard"] == "?":
                parts[-1] += "."
            elif found.get("key"):
                value = next(iter(context.get(found["key"].lower(), ())), found["default"])
                if value is None:
                    return None
                parts[-1] += re.escape(value)
            else:
                parts[-1] += re.escape(found.get("literal") or token[0])
        first, *rest = parts
        if not rest:
            return first
        # Atomic groups, as in fnmatch: time stays linear with many asterisks.
        return first + "".join(f"(?>.*?{part})" for part in rest[:-1]) + f".*{rest[-1]}"


class _Compiled(NamedTuple):
    """A condition's value: its test, and the keys of its policy variables."""

    test: Test
    keys: list[str]


class _Operator(NamedTuple):
    kind: str
    compile: Callable[[str, bool], _Compiled]
    negated: bool = False


def _text(*, wildcards: bool = False, ignore_case: bool = False) -> Callable[[str, bool], _Compiled]:
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)

    def compiled(text: str, has_variables: bool) -> _Compiled:
        pattern = _Pattern(text, has_variables=has_variables)

        def test(value: str, context: Context) -> bool:
            regex = pattern.regex(context, wildcards=wildcards)
            return regex is not None and re.fullmatch(regex, value, flags) is not None

        return _Compiled(test, pattern.keys)

    return compiled


def _arn(text: str, has_variables: bool) -> _Compiled:
    """Compile an ARN. Its six parts are compared one by one, and each may have wildcards."""
    parts = re.split(r":(?![^{}]*\})" if has_variables else ":", text, maxsplit=5)
    if len(parts) < 6:
        raise ValueError("not an ARN, which has six parts between colons")
    compiled = [_text(wildcards=True)(part, has_variables) for part in parts]

    def test(value: str, context: Context) -> bool:
        given = value.split(":", 5)
        return len(given) == 6 and all(each.test(part, context) for each, part in zip(compiled, given, strict=True))

    return _Compiled(test, [key for each in compiled for key in each.keys])


def _compared(
    parse: Callable[[str], datetime] | Callable[[str], Decimal], compare: Callable[..., bool]
) -> Callable[[str, bool], _Compiled]:
    def compiled(text: str, has_variables: bool) -> _Compiled:
        limit = parse(text)
        return _Compiled(lambda value, context: compare(parse(value), limit), [])

    return compiled


def _bool(text: str, has_variables: bool) -> _Compiled:
    wanted = text.lower()
    if wanted not in ("true", "false"):
        raise ValueError("neither true nor false")
    return _Compiled(lambda value, context: value == wanted, [])


def _date(text: str) -> datetime:
    """Parse a date of ISO 8601 in the forms of W3C's note, or seconds since 1970."""
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(float(text), UTC)
        text = f"{text}-01" if re.fullmatch(r"\d{4}-\d\d", text, re.ASCII) else text
        parsed = datetime.fromisoformat(text) if _DATE.fullmatch(text) else None
    except (ValueError, OverflowError, OSError):
        parsed = None
    if parsed is None:
        raise ValueError("not a date such as 2026-01-31T00:00:00Z")
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _number(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number")
    return Decimal(text)


_ORDERS = {
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
}
OPERATORS = {
    "StringEquals": _Operator("text", _text()),
    "StringNotEquals": _Operator("text", _text(), negated=True),
    "StringEqualsIgnoreCase": _Operator("text", _text(ignore_case=True)),
    "StringNotEqualsIgnoreCase": _Operator("text", _text(ignore_case=True), negated=True),
    "StringLike": _Operator("text", _text(wildcards=True)),
    "StringNotLike": _Operator("text", _text(wildcards=True), negated=True),
    **{f"Arn{name}": _Operator("arn", _arn) for name in ("Equals", "Like")},
    **{f"ArnNot{name}": _Operator("arn", _arn, negated=True) for name in ("Equals", "Like")},
    "DateEquals": _Operator("date", _compared(_date, operator.eq)),
    "DateNotEquals": _Operator("date", _compared(_date, operator.eq), negated=True),
    **{f"Date{name}": _Operator("date", _compared(_date, order)) for name, order in _ORDERS.items()},
    "NumericEquals": _Operator("number", _compared(_number, operator.eq)),
    "NumericNotEquals": _Operator("number", _compared(_number, operator.eq), negated=True),
    **{f"Numeric{name}": _Operator("number", _compared(_number, order)) for name, order in _ORDERS.items()},
    "Bool": _Operator("bool", _bool),
    "Null": _Operator("null", _bool),
}


class Finding(NamedTuple):
    """Whether a condition is met, or None if that is not known. If it is not met, the words say why."""

    met: bool | None
    words: str = ""


@dataclass(frozen=True)
class Condition:
    """One operator with one key and its values, as written in a policy. Make it with `parse`."""

    operator: str
    key: str
    values: tuple[str, ...]
    _tests: tuple[_Compiled, ...]
    _has_variables: bool

    @classmethod
    def parse(cls, name: str, key: str, values: tuple[str, ...], *, has_variables: bool) -> Condition:
        """Return a condition.

        Args:
            name: the operator, such as "ForAnyValue:StringLikeIfExists".
            key: the key, such as "aws:PrincipalTag/x509Subject/CN".
            values: one or more, as text.
            has_variables: whether the policy's Version has policy variables.

        Raises:
            ValueError: the operator is unknown, or a value is not of its type. The text completes "…: ".
        """
        every, base, if_exists = _parts(name)
        if base not in OPERATORS or (base == "Null" and (every or if_exists)):
            raise ValueError(f"unknown operator {name}")
        if not values:
            raise ValueError(f"{name} {key} has no value")
        tests = []
        for value in values:
            try:
                tests.append(OPERATORS[base].compile(value, has_variables))
            except ValueError as error:
                raise ValueError(f"{name} {key} has the value {value!r}, {error}") from error
        return cls(name, key, values, tuple(tests), has_variables)

    def judge(self, context: Context) -> Finding:
        """Return whether a request meets the condition. An unknown key or variable makes that unknown."""
        known = [_kind(key) for key in (self.key, *self.variables)]
        for key, kind in zip((self.key, *self.variables), known, strict=True):
            if kind is None:
                return Finding(None, f"unknown key {key}")
        quantifier, base, _ = _parts(self.operator)
        kind = OPERATORS[base].kind
        if kind not in ("null", *(known[0] or "").split()):
            return Finding(None, f"unknown use of {self.operator} with {self.key}")
        several = [key for key in self.variables if key.lower() in _MULTIVALUED]
        if several or (self.key.lower() in _MULTIVALUED and kind != "null" and not quantifier):
            where = f"in ${{{several[0]}}}" if several else f"with {self.operator}"
            return Finding(None, f"unknown meaning of a key with several values {where}")
        given = context.get(self.key.lower(), ())
        return Finding(True) if self._is_met(given, context) else Finding(False, self._requirement(given, context))

    @property
    def variables(self) -> tuple[str, ...]:
        """The keys of the policy variables in the values."""
        return tuple(key for each in self._tests for key in each.keys)

    def _is_met(self, given: tuple[str, ...], context: Context) -> bool:
        quantifier, base, if_exists = _parts(self.operator)
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


def _parts(name: str) -> tuple[str | None, str, str | None]:
    """Split an operator's name into its set operator, the bare operator and IfExists."""
    match = _QUALIFIED.fullmatch(name)
    return (match[1], match[2], match[3]) if match else (None, "", None)


def _kind(key: str) -> str | None:
    """Return what compares a key's values, or None if the key is unknown."""
    name, slash, tag = key.lower().partition("/")
    return KEYS.get(key.lower() if name == "aws:originidentity" else name + slash) if not slash or tag else None


def _quoted(values: tuple[str, ...]) -> str:
    return ", ".join(map(repr, values)) or "missing"
