"""Questions: what operators, patterns and policy variables mean in the condition of a trust policy."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from hwsigner.trial.questions import Source, choice
from trial_aws.plan import AWSQuestion
from trial_aws.probes import LET_IN, REFUSED, TAG_KEY, Condition, Probe, ProbeTable, Reading
from trial_aws.sources import GLOBAL_KEYS, OPERATORS, VARIABLES
from trial_aws.wanted import statement

_OPEN = "docs/how-to/aws.md#open-it-lets-in-more-than-it-names"
_WRONG = "docs/how-to/aws.md#wrong-it-keeps-out-what-it-should-let-in"
_MEANING = "docs/how-to/aws.md#what-each-condition-means"
_EMULATOR = "docs/how-to/emulator.md#trust-policies"
_CONDITION = "hwsigner/trust_policy/conditions.py: Condition"
_PATTERN = "hwsigner/trust_policy/conditions.py: _Pattern"
_ARN = "hwsigner/trust_policy/conditions.py: _arn"
_STATEMENT = "hwsigner/trust_policy/__init__.py: TrustPolicy"
_OU, _L, _MISSING = f"{TAG_KEY}x509Subject/OU", f"{TAG_KEY}x509Subject/L", f"{TAG_KEY}x509Subject/UID"
_ANCHOR = "<<anchor:main>>"
# The certificate of each question has the CN by which it is known, and these. The O is there only if it is compared.
_NAMES = (("OU", "web-1"), ("L", "web-1"))
_EMPTY_O = ("O", "")
_EMPTY = f"{TAG_KEY}x509Subject/O"


class _Row(NamedTuple):
    """A question about a condition: whether it lets in the certificate with _NAMES."""

    name: str
    text: str

    def expects(self, answer: str, source: Source, condition: Condition, *rests_on: str) -> Probe:
        """Return the question."""
        return _reading(self.name, self.text, Reading(LET_IN, condition), answer, source, rests_on)


def _denied(name: str, text: str, condition: Condition, expected: str, page: str) -> Probe:
    """Return a question about a Deny with a condition, beside an Allow without one."""
    reading = Reading(LET_IN, statements=(statement(), statement(condition, Effect="Deny")))
    return _reading(name, text, reading, expected, OPERATORS, (page, _STATEMENT))


def _reading(name: str, text: str, reading: Reading, expected: str, source: Source, rests_on: tuple[str, ...]) -> Probe:
    names = (*_NAMES, _EMPTY_O) if re.search(r"x509Subject/O\b", str(reading)) else _NAMES
    return Probe(f"conditions.{name}", text, expected, source, rests_on, (reading,), names)


def _missing(name: str, operator: str, expected: str, page: str = _EMULATOR, source: Source = OPERATORS) -> Probe:
    text = f"Does {operator} with a tag that the request lacks let the certificate in?"
    condition = {operator: {_MISSING: "web-1"}}
    return _Row(name, text).expects(expected, source, condition, page, _CONDITION)


_IF_ANY = choice("the two rules for a missing key contradict each other; IfExists is taken to come first")
_MISSING_KEYS = [
    _missing("missing", "StringEquals", REFUSED, _MEANING),
    _missing("missing-all", "ForAllValues:StringEquals", LET_IN, _OPEN),
    _missing("missing-any", "ForAnyValue:StringEquals", REFUSED),
    _missing("missing-if-exists", "StringEqualsIfExists", LET_IN, _OPEN),
    _missing("missing-any-if-exists", "ForAnyValue:StringEqualsIfExists", LET_IN, source=_IF_ANY),
    _missing("missing-all-if-exists", "ForAllValues:StringEqualsIfExists", LET_IN),
    _missing("missing-not", "StringNotEquals", LET_IN, _OPEN),
    _missing(
        "missing-any-not", "ForAnyValue:StringNotEquals", REFUSED, source=choice("no value is there that differs")
    ),
    _Row("null-true", "Does Null true with a tag that the request lacks let the certificate in?").expects(
        LET_IN, OPERATORS, {"Null": {_MISSING: "true"}}, _EMULATOR, _CONDITION
    ),
    _Row("null-false", "Does Null false with a tag that the request lacks let the certificate in?").expects(
        REFUSED, OPERATORS, {"Null": {_MISSING: "false"}}, _EMULATOR, _CONDITION
    ),
    _Row("null-empty", "Does Null true with a tag that is empty let the certificate in?").expects(
        REFUSED, choice("an empty tag is there"), {"Null": {_EMPTY: "true"}}, _EMULATOR, _CONDITION
    ),
    _Row("empty-all", "Does ForAllValues:StringEquals with a tag that is empty let the certificate in?").expects(
        LET_IN, OPERATORS, {"ForAllValues:StringEquals": {_EMPTY: "web-1"}}, _EMULATOR, _CONDITION
    ),
    _Row(
        "empty-any", "Does ForAnyValue:StringEquals with an empty value and a tag that is empty let the certificate in?"
    ).expects(REFUSED, OPERATORS, {"ForAnyValue:StringEquals": {_EMPTY: ""}}, _EMULATOR, _CONDITION),
    _Row("empty-if-exists", "Does StringEqualsIfExists with a tag that is empty let the certificate in?").expects(
        REFUSED, choice("an empty tag is there"), {"StringEqualsIfExists": {_EMPTY: "web-1"}}, _EMULATOR, _CONDITION
    ),
]


_ARN_PATTERN = "arn:*:rolesanywhere:*:*:trust-anchor/*"
_SHORT_PATTERN = "arn:*:trust-anchor/*"
_SHIFTED_PATTERN = "arn:*:rolesanywhere:*:trust-anchor/*:*"
_SHOWN_ARNS = {
    _ANCHOR: "with this ARN",
    _ARN_PATTERN: "with a pattern of six parts",
    _SHORT_PATTERN: "with a pattern in which an asterisk stands for several parts",
    _SHIFTED_PATTERN: "with a pattern of six parts that fits only if an asterisk stands for several",
}


def _value(
    name: str,
    operator: str,
    value: Any,
    expected: str,
    *,
    key: str = _OU,
    source: Source = OPERATORS,
    page: str = _MEANING,
) -> Probe:
    shown = {_OU: "the OU web-1", _L: "the L web-1", "aws:SourceArn": "the trust anchor's ARN"}[key]
    quoted = " or ".join(value) if isinstance(value, list) else value
    wanted = _SHOWN_ARNS.get(quoted, quoted)
    text = f"Does {operator} {wanted} let a certificate in that has {shown}?"
    rests_on = page, _ARN if key == "aws:SourceArn" else _PATTERN
    return _Row(name, text).expects(expected, source, {operator: {key: value}}, *rests_on)


_VALUES = [
    _value("equals-case", "StringEquals", "WEB-1", REFUSED),
    _value("equals-ignoring-case", "StringEqualsIgnoreCase", "WEB-1", LET_IN),
    _value("equals-wildcard", "StringEquals", "web-*", REFUSED, page=_WRONG),
    _value("not-equals-wildcard", "StringNotEquals", "web-*", LET_IN, page=_WRONG),
    _value("like-star", "StringLike", "web-*", LET_IN),
    _value("like-question", "StringLike", "web-?", LET_IN),
    _value("like-question-none", "StringLike", "web-1?", REFUSED),
    _value("like-case", "StringLike", "WEB-*", REFUSED),
    _value("like-literal", "StringLike", "web-${*}", REFUSED, source=VARIABLES),
    _value("like-all", "StringLike", "*", LET_IN, page=_OPEN),
    _value("not-equals-ignoring-case", "StringNotEqualsIgnoreCase", "WEB-1", REFUSED),
    _value("one-of", "StringEquals", ["web-2", "web-1"], LET_IN),
    _value("none-of", "StringNotEquals", ["web-2", "web-1"], REFUSED),
    _value("all-values", "ForAllValues:StringEquals", "web-2", REFUSED),
    _value("any-value", "ForAnyValue:StringEquals", "web-1", LET_IN),
    _value("variable", "StringEquals", "${aws:PrincipalTag/x509Subject/L}", LET_IN, source=VARIABLES),
    _value("variable-like", "StringLike", "${aws:PrincipalTag/x509Subject/L}*", LET_IN, source=VARIABLES, page=_OPEN),
    _value(
        "variable-case",
        "StringEquals",
        "${AWS:principaltag/X509subject/l}",
        LET_IN,
        source=choice("keys are not case-sensitive, nor are those of tags"),
    ),
    _value("variable-missing", "StringEquals", "web-1${aws:PrincipalTag/x509Subject/UID}", REFUSED, source=VARIABLES),
    _value(
        "variable-missing-not",
        "StringNotEquals",
        "${aws:PrincipalTag/x509Subject/UID}",
        LET_IN,
        source=choice("a variable without a value equals nothing"),
    ),
    _value(
        "variable-default", "StringEquals", "${aws:PrincipalTag/x509Subject/UID, 'web-1'}", LET_IN, source=VARIABLES
    ),
    _value(
        "variable-empty",
        "StringEquals",
        "web-1${aws:PrincipalTag/x509Subject/O}",
        LET_IN,
        source=choice("an empty tag is there, so the variable is the empty text"),
    ),
    _value(
        "variable-empty-default",
        "StringEquals",
        "web-1${aws:PrincipalTag/x509Subject/O, '-'}",
        LET_IN,
        source=choice("the default is for keys that are missing"),
    ),
    _value("arn-equals", "ArnEquals", _ANCHOR, LET_IN, key="aws:SourceArn"),
    _value("arn-string-equals", "StringEquals", _ANCHOR, LET_IN, key="aws:SourceArn"),
    _value("arn-equals-wildcard", "ArnEquals", _ARN_PATTERN, LET_IN, key="aws:SourceArn"),
    _value("arn-like-wildcard", "ArnLike", _ARN_PATTERN, LET_IN, key="aws:SourceArn"),
    _value("arn-string-like", "StringLike", _SHORT_PATTERN, LET_IN, key="aws:SourceArn"),
    _value("arn-string-equals-wildcard", "StringEquals", _SHORT_PATTERN, REFUSED, key="aws:SourceArn"),
    _value("arn-like-parts", "ArnLike", _SHIFTED_PATTERN, REFUSED, key="aws:SourceArn"),
    _value("arn-not-like", "ArnNotLike", _ARN_PATTERN, REFUSED, key="aws:SourceArn"),
]


_OTHERS = [
    _Row("two-keys", "Are two keys of one operator both required?").expects(
        REFUSED, OPERATORS, {"StringLike": {_OU: "web-1", _L: "web-2"}}, _MEANING, _STATEMENT
    ),
    _Row("two-operators", "Are two operators both required?").expects(
        REFUSED, OPERATORS, {"StringLike": {_OU: "web-1"}, "StringNotEquals": {_L: "web-1"}}, _MEANING, _STATEMENT
    ),
    _Row("tag-case", "Does a tag's name in other letters, aws:PrincipalTag/X509subject/ou, name the same tag?").expects(
        LET_IN,
        choice("STS says that the keys of tags are not case-sensitive"),
        {"StringLike": {f"{TAG_KEY}X509subject/ou": "web-1"}},
        _EMULATOR,
        _CONDITION,
    ),
    _Row("key-case", "Does a key's name in other letters, AWS:sourcearn, name the same key?").expects(
        LET_IN, OPERATORS, {"ArnEquals": {"AWS:sourcearn": _ANCHOR}}, _EMULATOR, _CONDITION
    ),
    _denied("deny", "Does a Deny that is met outweigh an Allow?", {"StringLike": {_OU: "web-1"}}, REFUSED, _EMULATOR),
    _denied(
        "deny-missing",
        "Is a Deny with StringNotEquals met if the request lacks the tag?",
        {"StringNotEquals": {_MISSING: "web-1"}},
        REFUSED,
        _OPEN,
    ),
    _denied(
        "deny-two-keys",
        "Is a Deny with StringNotEquals and two keys met if one of them is equal?",
        {"StringNotEquals": {_OU: "web-1", _L: "web-2"}},
        LET_IN,
        _OPEN,
    ),
    _Row("date-past", "Does DateLessThan aws:CurrentTime with a time that has passed let the certificate in?").expects(
        REFUSED,
        OPERATORS,
        {"DateLessThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"}},
        "docs/how-to/aws.md#how-openness-is-judged",
        _CONDITION,
    ),
    _Row("date-day", "Does DateGreaterThan aws:CurrentTime take a day without a time?").expects(
        LET_IN,
        OPERATORS,
        {"DateGreaterThan": {"aws:CurrentTime": "2026-01-01"}},
        _EMULATOR,
        "hwsigner/trust_policy/conditions.py: _date",
    ),
    _Row("date-epoch", "Does DateGreaterThan aws:CurrentTime take seconds since 1970?").expects(
        LET_IN,
        OPERATORS,
        {"DateGreaterThan": {"aws:CurrentTime": "1767225600"}},
        _EMULATOR,
        "hwsigner/trust_policy/conditions.py: _date",
    ),
    _Row("epoch-date", "Does DateGreaterThan aws:EpochTime take a date?").expects(
        LET_IN,
        OPERATORS,
        {"DateGreaterThan": {"aws:EpochTime": "2026-01-01T00:00:00Z"}},
        _EMULATOR,
        "hwsigner/trust_policy/conditions.py: _date",
    ),
    _Row("bool-false", "Does Bool aws:PrincipalIsAWSService false let the certificate in?").expects(
        REFUSED, GLOBAL_KEYS, {"Bool": {"aws:PrincipalIsAWSService": "false"}}, _EMULATOR, _CONDITION
    ),
    _Row(
        "tag-keys-alone", "Does StringLike compare aws:TagKeys, which has several values, without ForAnyValue?"
    ).expects(
        REFUSED,
        choice("AWS says that keys with several values need a set operator"),
        {"StringLike": {"aws:TagKeys": "x509Subject/*"}},
        _EMULATOR,
        "hwsigner/trust_policy/conditions.py: _what_is_unknown",
    ),
    _Row("arn-of-text", "Does ArnLike compare a tag that is not an ARN?").expects(
        REFUSED,
        choice("ARN operators are for keys that have ARNs"),
        {"ArnLike": {_OU: "arn:*:*:*:*:*"}},
        _EMULATOR,
        "hwsigner/trust_policy/conditions.py: _what_is_unknown",
    ),
]

QUESTIONS: list[AWSQuestion] = ProbeTable("conditions", [*_MISSING_KEYS, *_VALUES, *_OTHERS]).questions
