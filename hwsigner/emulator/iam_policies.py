"""Which trust policies IAM stores: a check of their form, apart from what they allow.

IAM stores more than hwsigner's evaluator understands. Such a policy is stored to the letter, and refuses every session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hwsigner.emulator.differences import NONE, Difference, Differences
from hwsigner.emulator.refusals import RefusalError
from hwsigner.errors import ConfigError
from hwsigner.trust_policy import ACTIONS, SERVICE, Context, TrustPolicy

MAX_LENGTH = 2048
_VERSIONS = ("2008-10-17", "2012-10-17")
_POLICY = ("Version", "Id", "Statement")
_STATEMENT = ("Sid", "Effect", "Principal", "Action", "NotAction", "Condition")
_PROHIBITED = ("Resource", "NotResource", "NotPrincipal")
_PRINCIPALS = ("Service", "AWS", "Federated", "CanonicalUser")
# IAM knows every service. These are the domains of their principals.
_SERVICE = re.compile(r"[\w.-]+\.(?:amazonaws\.(?:com|com\.cn|eu)|amazon\.com|aws\.internal)", re.ASCII | re.IGNORECASE)
_COMPARED = "Equals|NotEquals|LessThan|LessThanEquals|GreaterThan|GreaterThanEquals"
_OPERATOR = (
    rf"(?:(?:ForAllValues|ForAnyValue):)?(?:String(?:Not)?(?:Equals(?:IgnoreCase)?|Like)|(?:Numeric|Date)(?:{_COMPARED})"
    r"|Arn(?:Not)?(?:Equals|Like)|Bool|BinaryEquals|(?:Not)?IpAddress)(?:IfExists)?|Null"
)


class UnknownPolicy:
    """A trust policy that IAM stores but that hwsigner can't judge. It refuses every session."""

    def __init__(self, document: str, reason: str) -> None:
        self.document = document
        self.reason = reason

    def refusal(self, context: Context) -> str:
        """Return why no request may assume the role."""
        return f"the trust policy can't be judged: {self.reason}"


def open_policy(principal_tags: Mapping[str, str]) -> str:
    """Return the trust policy of a role that every certificate may assume if the session has these tags."""
    statement: dict[str, Any] = {"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": list(ACTIONS)}
    if principal_tags:
        wanted = {f"aws:PrincipalTag/{name}": value for name, value in principal_tags.items()}
        statement["Condition"] = {"StringEquals": wanted}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def read_policy(document: str, differing: Differences = NONE) -> TrustPolicy | UnknownPolicy:
    """Read a trust policy as IAM does when a role is made or changed.

    A refusal is a MalformedPolicyDocument, or LimitExceeded if it is too long.
    """
    check_form(document, differing)
    # IAM does not count white space.
    if len("".join(document.split())) > MAX_LENGTH:
        raise RefusalError("LimitExceeded", 409, f"Cannot exceed quota for ACLSizePerRole: {MAX_LENGTH}")
    try:
        return TrustPolicy(document)
    except ConfigError as error:
        return UnknownPolicy(document, error.message)


def session_refusal(policy: TrustPolicy | UnknownPolicy, context: Context, differing: Differences) -> str:
    """Return why a trust policy does not allow a session, or an empty string if it does."""
    if isinstance(policy, UnknownPolicy) or not differing:
        return policy.refusal(context)
    judged = TrustPolicy(_rewritten(policy.document, differing))
    return judged.refusal(context, every_key=Difference.EVERY_KEY in differing)


def _rewritten(document: str, differing: Differences) -> dict[str, Any]:
    """Return the policy that is usually judged as this one is with the differences."""
    policy: dict[str, Any] = json.loads(document)
    for statement in policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]:
        condition = statement.get("Condition", {})
        for operator, keys in list(condition.items()):
            if Difference.FOR_ALL_NEEDS_KEY in differing and operator.startswith("ForAllValues:"):
                condition["Null"] = {**condition.get("Null", {}), **dict.fromkeys(keys, "false")}
            if Difference.ARN_STAR in differing and operator.startswith("Arn"):
                condition[operator] = {key: "arn:*:*:*:*:none" if each == "*" else each for key, each in keys.items()}
    return policy


def check_form(document: str, differing: Differences = NONE) -> None:
    """Check a trust policy's elements as IAM does, whatever they allow. A refusal is a MalformedPolicyDocument."""
    try:
        policy = json.loads(document, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _malformed("This policy contains invalid Json") from error
    _check_members(policy, _POLICY, required=("Statement",))
    if policy.get("Version", _VERSIONS[0]) not in _VERSIONS:
        raise _malformed("The policy must contain a valid version string")
    statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    if not statements:
        raise _malformed("Could not parse the policy: Statement is empty!")
    for statement in statements:
        _check_statement(statement, differing)
    sids = [statement["Sid"] for statement in statements if statement.get("Sid")]
    if any(sids.count(sid) > 1 for sid in sids):
        raise _malformed("Statement IDs (SID) in a single policy must be unique.")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _check_statement(statement: object, differing: Differences) -> None:
    for name in _PROHIBITED:
        if isinstance(statement, Mapping) and name in statement:
            raise _malformed(f"Has prohibited field {name}")
    members = _check_members(statement, _STATEMENT, required=("Effect",))
    if members["Effect"] not in ("Allow", "Deny"):
        raise _malformed(f"Invalid effect: {members['Effect']}")
    if not isinstance(members.get("Sid", ""), str) or not re.fullmatch("[A-Za-z0-9]*", members.get("Sid", "")):
        hint = "Check that your input satisfies the regular expression [0-9A-Za-z]*"
        raise _malformed(f"Statement IDs (SID) must be alpha-numeric. {hint}")
    _check_members(members, _STATEMENT, required=("Principal",))
    if Difference.PRINCIPAL_STAR not in differing or members["Principal"] != "*":
        _check_principal(members["Principal"])
    for action in _texts(_one_of(members, "Action", "NotAction"), "Action"):
        if not re.fullmatch("sts:[A-Za-z*?]+", action, re.IGNORECASE):
            raise _malformed("AssumeRole policy may only specify STS AssumeRole actions.")
    _check_condition(members.get("Condition", {}), differing)


def _check_principal(principal: object) -> None:
    if principal == "*":
        raise _malformed('Invalid principal in policy: "STAR":"*"')
    if not isinstance(principal, Mapping) or not principal:
        raise _malformed("Invalid principal in policy")
    for kind, value in principal.items():
        texts = _texts(value, f"Principal {kind}")
        for text in texts:
            # "AWS": "*" is everyone. No other principal may have wildcards.
            has_wildcard = bool({"*", "?"} & set(text)) and (kind, text) != ("AWS", "*")
            is_unknown = kind == "Service" and not _SERVICE.fullmatch(text)
            if kind not in _PRINCIPALS or not text or has_wildcard or is_unknown:
                raise _malformed(f'Invalid principal in policy: "{kind.upper()}":"{text}"')


def _check_condition(condition: object, differing: Differences) -> None:
    if not isinstance(condition, Mapping):
        raise _malformed("Syntax error in the Condition of a statement")
    flags = re.IGNORECASE if Difference.OPERATOR_CASE in differing else 0
    for operator, keys in condition.items():
        if not re.fullmatch(_OPERATOR, operator, flags):
            raise _malformed(f"Invalid Condition type : {operator}")
        if not isinstance(keys, Mapping) or not all(map(_is_condition_value, keys.values())):
            raise _malformed(f"Syntax error in the Condition {operator} of a statement")


def _is_condition_value(value: object) -> bool:
    return all(isinstance(each, str | int | float) for each in (value if isinstance(value, list) else [value]))


def _check_members(value: object, known: tuple[str, ...], *, required: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _malformed("Syntax error in the policy: not an object")
    for name in value:
        if name not in known:
            raise _malformed(f"Unknown field {name}")
    for name in required:
        if name not in value:
            raise _malformed(f"Missing required field {name}")
    return value


def _one_of(statement: Mapping[str, Any], name: str, negated: str) -> object:
    """Return the element with either name. IAM requires exactly one of them."""
    found = [each for each in (name, negated) if each in statement]
    if len(found) != 1:
        raise _malformed(f"Missing required field {name}" if not found else f"{name} and {negated} exclude each other")
    return statement[found[0]]


def _texts(value: object, what: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    texts = [each for each in values if isinstance(each, str)]
    if not texts or len(texts) < len(values):
        raise _malformed(f"Syntax error in the {what} of a statement")
    return texts


def _malformed(message: str) -> RefusalError:
    return RefusalError("MalformedPolicyDocument", 400, message)
