"""The operators of a trust policy's conditions, and the wildcards and policy variables in their values.

The meaning is that of "Condition operators" and "Variables and tags" in AWS's IAM User Guide.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

# The values of a request's keys, by the key's name in lower case. A key that the request lacks has no values.
Context = Mapping[str, tuple[str, ...]]
# Whether a value of the request matches one value of a condition.
Test = Callable[[str, Context], bool]

_TOKEN = re.compile(
    r"\$\{(?P<literal>[*?$])\}|\$\{(?P<key>[\w:.+=@/ -]+)(?:, '(?P<default>[^']*)')?\}|(?P<wildcard>[*?])"
    r"|(?P<text>[^$*?]+|\$(?!\{))"
)
_TOKEN_WITHOUT_VARIABLES = re.compile(r"(?P<wildcard>[*?])|(?P<text>[^*?]+)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d))?", re.ASCII)
_SECONDS = re.compile(r"\d{5,12}(?:\.\d+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?", re.ASCII)


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


class Compiled(NamedTuple):
    """A condition's value: its test, and the keys of its policy variables."""

    test: Test
    keys: list[str]


class _Operator(NamedTuple):
    kind: str
    compile: Callable[[str, bool], Compiled]
    negated: bool = False


def _text(*, wildcards: bool = False, ignore_case: bool = False) -> Callable[[str, bool], Compiled]:
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)

    def compiled(text: str, has_variables: bool) -> Compiled:
        pattern = _Pattern(text, has_variables=has_variables)

        def test(value: str, context: Context) -> bool:
            regex = pattern.regex(context, wildcards=wildcards)
            return regex is not None and re.fullmatch(regex, value, flags) is not None

        return Compiled(test, pattern.keys)

    return compiled


def _arn(text: str, has_variables: bool) -> Compiled:
    """Compile an ARN. Its six parts are compared one by one, and each may have wildcards."""
    parts = re.split(r":(?![^{}]*\})" if has_variables else ":", text, maxsplit=5)
    if len(parts) < 6:
        raise ValueError("not an ARN, which has six parts between colons")
    compiled = [_text(wildcards=True)(part, has_variables) for part in parts]

    def test(value: str, context: Context) -> bool:
        given = value.split(":", 5)
        return len(given) == 6 and all(each.test(part, context) for each, part in zip(compiled, given, strict=True))

    return Compiled(test, [key for each in compiled for key in each.keys])


def _compared(
    parse: Callable[[str], datetime] | Callable[[str], Decimal], compare: Callable[..., bool]
) -> Callable[[str, bool], Compiled]:
    def compiled(text: str, has_variables: bool) -> Compiled:
        limit = parse(text)
        return Compiled(lambda value, context: compare(parse(value), limit), [])

    return compiled


def _bool(text: str, has_variables: bool) -> Compiled:
    wanted = text.lower()
    if wanted not in ("true", "false"):
        raise ValueError("neither true nor false")
    return Compiled(lambda value, context: value == wanted, [])


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


_COMPARISONS = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
}
_POSITIVE = {
    "StringEquals": _Operator("text", _text()),
    "StringEqualsIgnoreCase": _Operator("text", _text(ignore_case=True)),
    "StringLike": _Operator("text", _text(wildcards=True)),
    "ArnEquals": _Operator("arn", _arn),
    "ArnLike": _Operator("arn", _arn),
    **{f"Date{name}": _Operator("date", _compared(_date, compare)) for name, compare in _COMPARISONS.items()},
    **{f"Numeric{name}": _Operator("number", _compared(_number, compare)) for name, compare in _COMPARISONS.items()},
    "Bool": _Operator("bool", _bool),
    "Null": _Operator("null", _bool),
}
_NEGATED = re.compile(r"(String|Arn|Date|Numeric)(Equals|EqualsIgnoreCase|Like)")
OPERATORS = {
    **_POSITIVE,
    **{
        _NEGATED.sub(r"\1Not\2", name): each._replace(negated=True)
        for name, each in _POSITIVE.items()
        if _NEGATED.fullmatch(name)
    },
}
