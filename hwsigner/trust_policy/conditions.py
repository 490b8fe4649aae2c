"""The conditions of a trust policy: operators, wildcards and policy variables, and the keys of a request.

The meaning is that of "Condition operators", "Conditions with multiple context keys or values" and "Variables and tags"
in AWS's IAM User Guide. What these pages leave open is refused, never guessed.

AWS's documents differ on which keys each action has: the Service Authorization Reference lists keys by action, and the
Roles Anywhere User Guide splits its statements accordingly, but a sample of AWS Prescriptive Guidance compares
`sts:SourceIdentity` for all three actions at once. hwsigner follows the reference, and names statements that only one
of the two readings makes right.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    # Of sessions with web identities and SAML only, so that they are missing here.
    "aws:OriginIdentity/Issuer": "text",
    "aws:OriginIdentity/FederatedProviderArn": "text arn",
    "aws:PrincipalIsAWSService": "bool",
    "aws:CurrentTime": "date",
    "aws:EpochTime": "date number",
}
_KINDS = {key.lower(): kind for key, kind in KEYS.items()}
_MULTIVALUED = {"aws:tagkeys"}
_QUALIFIED = re.compile(r"(?:(ForAllValues|ForAnyValue):)?(\w+?)(IfExists)?", re.ASCII)


class _Pattern:
    """A value with wildcards and policy variables, which are not yet replaced. A malformed variable is a ValueError."""

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
    keys: tuple[str, ...]


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

        return Compiled(test, tuple(pattern.keys))

    return compiled


def _arn(text: str, has_variables: bool) -> Compiled:
    """Compile an ARN. Its six parts are compared one by one, and each may have wildcards. `*` alone fits every ARN."""
    if text == "*":
        return Compiled(lambda value, context: True, ())
    parts = re.split(r":(?![^{}]*\})" if has_variables else ":", text, maxsplit=5)
    if len(parts) < 6:
        raise ValueError("not an ARN, which has six parts between colons")
    compiled = [_text(wildcards=True)(part, has_variables) for part in parts]

    def test(value: str, context: Context) -> bool:
        given = value.split(":", 5)
        return len(given) == 6 and all(each.test(part, context) for each, part in zip(compiled, given, strict=True))

    return Compiled(test, tuple(key for each in compiled for key in each.keys))


def _compared(
    parse: Callable[[str], datetime] | Callable[[str], Decimal], compare: Callable[..., bool]
) -> Callable[[str, bool], Compiled]:
    def compiled(text: str, has_variables: bool) -> Compiled:
        limit = parse(text)
        return Compiled(lambda value, context: compare(parse(value), limit), ())

    return compiled


def _bool(text: str, has_variables: bool) -> Compiled:
    wanted = text.lower()
    if wanted not in ("true", "false"):
        raise ValueError("neither true nor false")
    return Compiled(lambda value, context: value == wanted, ())


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
    """One operator with one key and its values, as written in a policy. Make it with `parse`."""

    operator: str  # Such as "ForAnyValue:StringLikeIfExists".
    key: str  # Such as "aws:PrincipalTag/x509Subject/CN".
    values: tuple[str, ...]
    parts: OperatorParts
    variables: tuple[str, ...]  # The keys of the policy variables in the values.
    _tests: tuple[Compiled, ...]
    _has_variables: bool
    _unknown: str  # Why no request can be judged, or an empty string.

    @classmethod
    def parse(cls, name: str, key: str, values: tuple[str, ...], *, has_variables: bool) -> Condition:
        """Return a condition.

        `has_variables` is whether the policy's Version has policy variables. An unknown operator, or a value that is
        not of its type, is a ValueError, whose text completes "…: ".
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
        if base == "Null":  # An empty value is null too, as for set operators.
            return any(each.test("false" if any(given) else "true", context) for each in self._tests)
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


ASSUME, TAG, SET = ACTIONS = ("sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity")
_GLOBAL = "IAM User Guide, AWS global condition context keys"
_GUIDE = "Roles Anywhere User Guide, Trust model: the sample has it in one statement for all three actions"
_REFERENCE = "Service Authorization Reference, Actions defined by AWS Security Token Service"
_SESSION_TAGS = "IAM User Guide, Pass session tags in AWS STS; " + _REFERENCE
_STS_KEYS = "IAM User Guide, IAM and AWS STS condition context keys; " + _REFERENCE


class ActionKey(NamedTuple):
    """The actions whose requests have a key, and the document that says so."""

    actions: tuple[str, ...]
    source: str


# By key. Names with a slash at the end are those of tags.
ACTION_KEYS = {
    "aws:SourceArn": ActionKey(ACTIONS, _GUIDE),
    "aws:SourceAccount": ActionKey(ACTIONS, _GLOBAL),
    "aws:PrincipalTag/": ActionKey(ACTIONS, _GUIDE),
    "aws:RequestTag/": ActionKey((ASSUME, TAG), _SESSION_TAGS),
    "aws:TagKeys": ActionKey((ASSUME, TAG), _SESSION_TAGS),
    "aws:PrincipalServiceName": ActionKey(ACTIONS, _GLOBAL),
    "aws:PrincipalIsAWSService": ActionKey(ACTIONS, _GLOBAL),
    "aws:CurrentTime": ActionKey(ACTIONS, _GLOBAL),
    "aws:EpochTime": ActionKey(ACTIONS, _GLOBAL),
    "sts:RoleSessionName": ActionKey((ASSUME,), _STS_KEYS),
    "sts:SourceIdentity": ActionKey((ASSUME, SET), _STS_KEYS),
    "aws:OriginIdentity/": ActionKey(ACTIONS, "Roles Anywhere User Guide, Trusted identity propagation"),
}
_BY_NAME = {key.lower(): each.actions for key, each in ACTION_KEYS.items()}


def has_key(action: str, key: str) -> bool:
    """Return whether AWS lists a key for an action. Unknown keys count as listed: other rules report them."""
    name, slash, _ = key.lower().partition("/")
    return action in _BY_NAME.get(name + slash, ACTIONS)


def of_action(context: Context, action: str) -> Context:
    """Return the keys and values of a request that AWS lists for an action."""
    return {key: values for key, values in context.items() if has_key(action, key)}


def unlisted(conditions: Sequence[Condition], actions: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each key of some conditions that AWS does not list for some of the actions, with these."""
    keys = (key for each in conditions for key in (each.key, *each.variables))
    for key in dict.fromkeys(keys):
        if lacking := [action for action in actions if not has_key(action, key)]:
            yield key, lacking
