"""What asks for the meaning of operators, patterns and policy variables in the condition of a trust policy."""

from __future__ import annotations

from typing import Any

from trial_aws.plan import Ask
from trial_aws.probes import LET_IN, TAG_KEY, Condition, Probe, ProbeTable, Reading
from trial_aws.wanted import statement

_OU, _L, _MISSING, _EMPTY = (f"{TAG_KEY}x509Subject/{name}" for name in ("OU", "L", "UID", "O"))
# The certificate of each question has the CN by which it is known, and these.
_NAMES = (("OU", "web-1"), ("L", "web-1"))


def _met(condition: Condition, *names: tuple[str, str]) -> Probe:
    """Return what tells whether a certificate meets a condition."""
    return Probe((Reading(LET_IN, condition),), (*_NAMES, *names))


def _missing(operator: str) -> Probe:
    return _met({operator: {_MISSING: "web-1"}})


def _value(operator: str, value: Any, key: str = _OU) -> Probe:
    return _met({operator: {key: value}})


def _denied(condition: Condition) -> Probe:
    """Return what tells whether a Deny with a condition, beside an Allow without one, denies a certificate."""
    return Probe((Reading(LET_IN, statements=(statement(), statement(condition, Effect="Deny"))),), _NAMES)


_PROBES = {
    "missing": _missing("StringEquals"),
    "missing-all": _missing("ForAllValues:StringEquals"),
    "missing-if-exists": _missing("StringEqualsIfExists"),
    "missing-not": _missing("StringNotEquals"),
    "null-empty": _met({"Null": {_EMPTY: "true"}}, ("O", "")),
    "equals-case": _value("StringEquals", "WEB-1"),
    "equals-wildcard": _value("StringEquals", "web-*"),
    "variable-missing": _value("StringEquals", "web-1${aws:PrincipalTag/x509Subject/UID}"),
    "variable-missing-not": _value("StringNotEquals", "${aws:PrincipalTag/x509Subject/UID}"),
    "arn-like-parts": _value("ArnLike", "arn:*:rolesanywhere:*:trust-anchor/*:*", "aws:SourceArn"),
    "tag-case": _value("StringLike", "web-1", f"{TAG_KEY}X509subject/ou"),
    "deny-two-keys": _denied({"StringNotEquals": {_OU: "web-1", _L: "web-2"}}),
    "tag-keys-alone": _value("StringLike", "x509Subject/*", "aws:TagKeys"),
}
ASKS: dict[str, Ask] = ProbeTable("conditions", _PROBES).asks
