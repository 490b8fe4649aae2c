"""Trust policies: a table of decisions, laws that all policies obey, and documents that are refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.errors import ConfigError
from hwsigner.trust_policy import ACTIONS, TrustPolicy, request_context
from hwsigner.trust_policy.conditions import ACTION_KEYS, KEYS, OPERATORS

ANCHOR = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"
TAGS = {
    "x509Subject/CN": "bamboo-01",
    "x509Subject/OU": "devops",
    "x509Subject/O": "",
    "x509Issuer/CN": "Example CA",
    "x509Issuer/O": "a.c",
    "x509Issuer/OU": "abc",
    "x509Issuer/L": "two\nlines",
    "x509SAN/URI": "spiffe://example.com/web",
}
NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)  # 1769862600 seconds since 1970
ROLES_ANYWHERE = {"Service": "rolesanywhere.amazonaws.com"}
CN, OU, MISSING = (f"aws:PrincipalTag/x509Subject/{name}" for name in ("CN", "OU", "L"))
NAME_IS_CN = "${aws:PrincipalTag/x509Subject/CN}"


def context(session_name: str = "bamboo-01", **tags: str) -> Any:
    return request_context(
        trust_anchor=ANCHOR,
        tags=tags or TAGS,
        session_name=session_name,
        source_identity="CN=bamboo-01",
        now=NOW.astimezone(timezone(timedelta(hours=9))),
    )


def statement(condition: Any = None, **elements: Any) -> dict[str, Any]:
    made = {"Effect": "Allow", "Principal": ROLES_ANYWHERE, "Action": list(ACTIONS), **elements}
    return made if condition is None else {**made, "Condition": condition}


def policy(*statements: Any, **elements: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements), **elements}


# A condition, and the words of the refusal, or an empty string if the request meets it.
CONDITIONS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    # String operators. Values are alternatives; with a negated operator, none of them may match.
    ({"StringEquals": {CN: "bamboo-01", OU: "devops"}}, ""),
    ({"StringEquals": {OU: ["ops", "devops"]}}, ""),
    ({"StringEquals": {OU: "ops"}}, f"requires StringEquals {OU} 'ops', but it is 'devops'"),
    ({"StringEquals": {OU: ["ops", "dev"]}}, f"StringEquals {OU} 'ops' or 'dev', but it is 'devops'"),
    ({"StringEquals": {OU: "DevOps"}}, "'DevOps', but it is 'devops'"),
    ({"StringEquals": {OU: "dev*"}}, "'dev*', but it is 'devops'"),
    ({"StringEquals": {OU: "devops "}}, "'devops ', but it is 'devops'"),
    ({"StringEquals": {MISSING: "Berlin"}}, f"requires StringEquals {MISSING} 'Berlin', but the request does not have"),
    ({"StringEquals": {MISSING: ""}}, "but the request does not have it"),
    ({"StringEquals": {"aws:PrincipalTag/x509Subject/O": ""}}, ""),
    ({"StringNotEquals": {OU: "ops"}}, ""),
    ({"StringNotEquals": {OU: ["ops", "devops"]}}, "StringNotEquals"),
    ({"StringNotEquals": {MISSING: "Berlin"}}, ""),
    ({"StringEqualsIgnoreCase": {OU: "DevOps"}}, ""),
    ({"StringEqualsIgnoreCase": {OU: "ops"}}, "StringEqualsIgnoreCase"),
    ({"StringEqualsIgnoreCase": {MISSING: "ops"}}, "does not have it"),
    ({"StringNotEqualsIgnoreCase": {OU: "DEVOPS"}}, "StringNotEqualsIgnoreCase"),
    ({"StringNotEqualsIgnoreCase": {OU: "ops"}}, ""),
    ({"StringNotEqualsIgnoreCase": {MISSING: "ops"}}, ""),
    ({"StringLike": {CN: "bamboo-*"}}, ""),
    ({"StringLike": {CN: "bamboo-0?"}}, ""),
    ({"StringLike": {CN: "*-*1"}}, ""),
    ({"StringLike": {CN: "*"}}, ""),
    ({"StringLike": {CN: "bamboo-01"}}, ""),
    ({"StringLike": {CN: "bamboo-01*"}}, ""),
    ({"StringLike": {CN: "Bamboo-*"}}, "'Bamboo-*', but it is 'bamboo-01'"),
    ({"StringLike": {CN: "bamboo-01?"}}, "StringLike"),
    ({"StringLike": {CN: "bamboo-"}}, "StringLike"),
    ({"StringLike": {CN: "*1*1*"}}, "StringLike"),
    ({"StringLike": {CN: "[b]amboo-01"}}, "StringLike"),
    ({"StringLike": {CN: "bamboo.01"}}, "StringLike"),
    ({"StringLike": {MISSING: "*"}}, "does not have it"),
    ({"StringNotLike": {CN: "bamboo-*"}}, "StringNotLike"),
    ({"StringNotLike": {CN: ["web-*", "db-*"]}}, ""),
    ({"StringNotLike": {MISSING: "*"}}, ""),
    ({"StringLike": {"aws:PrincipalTag/x509Issuer/L": "two?l*"}}, ""),
    # All operators and all keys must be met, and each that is not is named.
    ({"StringEquals": {CN: "bamboo-01"}, "StringLike": {OU: "ops*"}}, f"statement 1 requires StringLike {OU}"),
    (
        {"StringEquals": {CN: "x", OU: "y"}},
        "but it is 'bamboo-01' and StringEquals aws:PrincipalTag/x509Subject/OU 'y'",
    ),
    # Names of keys ignore case.
    ({"StringEquals": {"AWS:principaltag/X509subject/ou": "devops"}}, ""),
    ({"StringEquals": {"STS:SOURCEIDENTITY": "CN=bamboo-01"}}, ""),
    # The other keys.
    ({"StringEquals": {"sts:SourceIdentity": "bamboo-01"}}, "'bamboo-01', but it is 'CN=bamboo-01'"),
    ({"StringLike": {"sts:RoleSessionName": "bamboo-*"}}, ""),
    ({"StringEquals": {"sts:RoleSessionName": "web"}}, "but it is 'bamboo-01'"),
    ({"StringEquals": {"aws:SourceAccount": "123456789012"}}, ""),
    ({"StringEquals": {"aws:SourceAccount": 123456789012}}, ""),
    ({"StringEquals": {"aws:SourceAccount": "210987654321"}}, "but it is '123456789012'"),
    ({"StringEquals": {"aws:SourceArn": ANCHOR}}, ""),
    ({"StringEquals": {"aws:PrincipalTag/x509Issuer/CN": "Example CA"}}, ""),
    ({"StringEquals": {"aws:RequestTag/x509Subject/CN": "bamboo-01"}}, ""),
    ({"StringEquals": {"aws:PrincipalServiceName": "rolesanywhere.amazonaws.com"}}, ""),
    # ARN operators compare six parts, each with wildcards.
    ({"ArnEquals": {"aws:SourceArn": ANCHOR}}, ""),
    ({"ArnEquals": {"aws:SourceArn": [ANCHOR.replace("eu-", "us-"), ANCHOR]}}, ""),
    ({"ArnEquals": {"aws:SourceArn": ANCHOR.replace("aa", "ab")}}, "ArnEquals aws:SourceArn"),
    ({"ArnEquals": {"aws:SourceArn": "arn:aws:rolesanywhere:*:123456789012:trust-anchor/*"}}, ""),
    ({"ArnLike": {"aws:SourceArn": "*"}}, ""),
    ({"ArnNotLike": {"aws:SourceArn": "*"}}, "ArnNotLike"),
    ({"ArnLike": {"aws:SourceArn": "arn:*:rolesanywhere:eu-central-?:*:trust-anchor/*"}}, ""),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*:profile/*:*"}}, "ArnLike"),
    ({"StringLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*/0e5a*"}}, ""),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:::*/0e5a*"}}, "ArnLike"),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*:${aws:SourceAccount}:trust-anchor/*"}}, ""),
    ({"ArnNotEquals": {"aws:SourceArn": ANCHOR}}, "ArnNotEquals"),
    ({"ArnNotEquals": {"aws:SourceArn": ANCHOR.replace("aa", "ab")}}, ""),
    ({"ArnNotLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*:*:*"}}, "ArnNotLike"),
    ({"ArnNotLike": {"aws:SourceArn": "arn:aws:rolesanywhere:us-*:*:*"}}, ""),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*:*:${aws:PrincipalTag/x509Subject/L}"}}, "L} is missing)"),
    ({"ArnNotLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*:*:${aws:PrincipalTag/x509Subject/L}"}}, ""),
    # Dates. The request's time is 2026-01-31T12:30:00Z.
    ({"DateEquals": {"aws:CurrentTime": "2026-01-31T12:30:00Z"}}, ""),
    ({"DateEquals": {"aws:CurrentTime": "2026-01-31T13:30:00+01:00"}}, ""),
    ({"DateEquals": {"aws:CurrentTime": "2026-01-31T12:30Z"}}, ""),
    ({"DateEquals": {"aws:CurrentTime": "1769862600"}}, ""),
    ({"DateEquals": {"aws:EpochTime": 1769862600}}, ""),
    ({"DateEquals": {"aws:CurrentTime": "2026-01-31"}}, "DateEquals"),
    ({"DateNotEquals": {"aws:CurrentTime": "2026-01-31"}}, ""),
    ({"DateNotEquals": {"aws:CurrentTime": "2026-01-31T12:30:00Z"}}, "DateNotEquals"),
    ({"DateLessThan": {"aws:CurrentTime": "2026-02"}}, ""),
    ({"DateLessThan": {"aws:CurrentTime": "2026-01-31T12:30:00Z"}}, "but it is '2026-01-31T12:30:00Z'"),
    ({"DateLessThanEquals": {"aws:CurrentTime": "2026-01-31T12:30:00Z"}}, ""),
    ({"DateLessThanEquals": {"aws:CurrentTime": "2026-01-31T12:29:59.9Z"}}, "DateLessThanEquals"),
    ({"DateGreaterThan": {"aws:CurrentTime": "2026-01-31T12:29:59Z"}}, ""),
    ({"DateGreaterThan": {"aws:CurrentTime": "2026-01-31T12:30:00Z"}}, "DateGreaterThan"),
    ({"DateGreaterThanEquals": {"aws:CurrentTime": "2026-01-31T12:30:00Z"}}, ""),
    ({"DateGreaterThanEquals": {"aws:EpochTime": "2026-02-01"}}, "DateGreaterThanEquals"),
    ({"DateGreaterThan": {"aws:CurrentTime": ["2030-01-01", "2020-01-01"]}}, ""),
    # Numbers.
    ({"NumericEquals": {"aws:EpochTime": "1769862600.0"}}, ""),
    ({"NumericEquals": {"aws:EpochTime": 1}}, "NumericEquals"),
    ({"NumericNotEquals": {"aws:EpochTime": 1}}, ""),
    ({"NumericLessThan": {"aws:EpochTime": "1769862600"}}, "NumericLessThan"),
    ({"NumericLessThanEquals": {"aws:EpochTime": "1769862600"}}, ""),
    ({"NumericGreaterThan": {"aws:EpochTime": 1769862599.5}}, ""),
    ({"NumericGreaterThanEquals": {"aws:EpochTime": "1769862601"}}, "NumericGreaterThanEquals"),
    # Booleans.
    ({"Bool": {"aws:PrincipalIsAWSService": "true"}}, ""),
    ({"Bool": {"aws:PrincipalIsAWSService": True}}, ""),
    ({"Bool": {"aws:PrincipalIsAWSService": "True"}}, ""),
    ({"Bool": {"aws:PrincipalIsAWSService": "false"}}, "'false', but it is 'true'"),
    ({"Bool": {"aws:PrincipalIsAWSService": False}}, "'false', but it is 'true'"),
    # Null.
    ({"Null": {MISSING: "true"}}, ""),
    ({"Null": {MISSING: True}}, ""),
    ({"Null": {MISSING: "false"}}, f"Null {MISSING} 'false', but the request does not have it"),
    ({"Null": {OU: "false"}}, ""),
    ({"Null": {OU: "true"}}, f"Null {OU} 'true', but it is 'devops'"),
    ({"Null": {"aws:SourceArn": "false", "aws:TagKeys": "false"}}, ""),
    # AWS's page: "the key exists and its value is not null", against "missing context keys or … with empty values".
    (
        {"Null": {"aws:PrincipalTag/x509Subject/O": "false"}},
        "Null aws:PrincipalTag/x509Subject/O 'false', but it is ''",
    ),
    ({"Null": {"aws:PrincipalTag/x509Subject/O": "true"}}, ""),
    # IfExists: as without it, but a missing key is as good as a match.
    ({"StringEqualsIfExists": {OU: "devops"}}, ""),
    ({"StringEqualsIfExists": {OU: "ops"}}, "StringEqualsIfExists"),
    ({"StringEqualsIfExists": {MISSING: "Berlin"}}, ""),
    ({"StringNotLikeIfExists": {OU: "dev*"}}, "StringNotLikeIfExists"),
    ({"StringNotLikeIfExists": {MISSING: "*"}}, ""),
    ({"ArnEqualsIfExists": {"aws:SourceArn": ANCHOR.upper()}}, "ArnEqualsIfExists"),
    ({"BoolIfExists": {"aws:PrincipalIsAWSService": "false"}}, "BoolIfExists"),
    ({"DateLessThanIfExists": {"aws:CurrentTime": "2020-01-01"}}, "DateLessThanIfExists"),
    # Set operators. The tags' names are a key with several values.
    ({"ForAllValues:StringLike": {"aws:TagKeys": "x509*"}}, ""),
    ({"ForAllValues:StringLike": {"aws:TagKeys": ["x509Subject/*", "x509Issuer/*", "x509SAN/*"]}}, ""),
    ({"ForAllValues:StringLike": {"aws:TagKeys": "x509Subject/*"}}, "but it is 'x509Subject/CN', 'x509Subject/OU'"),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["x509Subject/OU", "x"]}}, ""),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": "x509Subject/L"}}, "ForAnyValue:StringEquals aws:TagKeys"),
    ({"ForAllValues:StringNotEquals": {"aws:TagKeys": "x509Subject/L"}}, ""),
    ({"ForAllValues:StringNotEquals": {"aws:TagKeys": "x509Subject/OU"}}, "ForAllValues:StringNotEquals"),
    ({"ForAnyValue:StringNotEquals": {"aws:TagKeys": "x509Subject/OU"}}, ""),
    ({"ForAnyValue:StringNotLike": {"aws:TagKeys": "x509*"}}, "ForAnyValue:StringNotLike"),
    # Set operators with a key that has one value or none. Without a value, ForAllValues is met.
    ({"ForAllValues:StringEquals": {OU: "devops"}}, ""),
    ({"ForAllValues:StringEquals": {OU: "ops"}}, "ForAllValues:StringEquals"),
    ({"ForAllValues:StringEquals": {MISSING: "Berlin"}}, ""),
    ({"ForAllValues:StringEquals": {"aws:PrincipalTag/x509Subject/O": "Example"}}, ""),
    ({"ForAllValues:StringNotEquals": {MISSING: "Berlin"}}, ""),
    ({"ForAnyValue:StringEquals": {OU: ["ops", "devops"]}}, ""),
    ({"ForAnyValue:StringEquals": {MISSING: "Berlin"}}, "ForAnyValue:StringEquals"),
    ({"ForAnyValue:StringEquals": {"aws:PrincipalTag/x509Subject/O": ""}}, "ForAnyValue:StringEquals"),
    ({"ForAnyValue:StringNotEquals": {MISSING: "Berlin"}}, "ForAnyValue:StringNotEquals"),
    ({"ForAnyValue:StringEqualsIfExists": {MISSING: "Berlin"}}, ""),
    ({"ForAllValues:StringEqualsIfExists": {OU: "ops"}}, "ForAllValues:StringEqualsIfExists"),
    ({"ForAllValues:ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*:*:trust-anchor/*"}}, ""),
    ({"ForAllValues:StringEquals": {MISSING: "x"}, "Null": {MISSING: "false"}}, "requires Null"),
    # Policy variables.
    ({"StringEquals": {"sts:RoleSessionName": NAME_IS_CN}}, ""),
    ({"StringEquals": {"sts:SourceIdentity": f"CN={NAME_IS_CN}"}}, ""),
    ({"StringEquals": {"sts:SourceIdentity": NAME_IS_CN}}, f"{NAME_IS_CN} is 'bamboo-01'), but it is 'CN=bamboo-01'"),
    ({"StringLike": {"sts:SourceIdentity": "*=${AWS:PrincipalTag/x509subject/cn}"}}, ""),
    ({"StringEquals": {CN: "${aws:PrincipalTag/x509Subject/L}"}}, "x509Subject/L} is missing), but it is 'bamboo-01'"),
    ({"StringNotEquals": {CN: "${aws:PrincipalTag/x509Subject/L}"}}, ""),
    ({"StringEqualsIfExists": {CN: "${aws:PrincipalTag/x509Subject/L}"}}, "StringEqualsIfExists"),
    ({"StringEquals": {CN: ["${aws:PrincipalTag/x509Subject/L}", "bamboo-01"]}}, ""),
    ({"StringEquals": {OU: "${aws:PrincipalTag/x509Subject/L, 'devops'}"}}, ""),
    ({"StringEquals": {OU: "${aws:PrincipalTag/x509Subject/CN, 'devops'}"}}, "StringEquals"),
    ({"StringEquals": {OU: "dev${aws:PrincipalTag/x509Subject/L, ''}ops"}}, ""),
    ({"StringEquals": {OU: "$(aws:PrincipalTag/x509Subject/OU}"}}, "'$(aws:PrincipalTag/x509Subject/OU}', but it is"),
    ({"StringEquals": {"aws:PrincipalTag/x509Issuer/OU": "${aws:PrincipalTag/x509Issuer/O}"}}, "O} is 'a.c'), but"),
    ({"StringLike": {OU: "dev${*}"}}, "StringLike"),
    ({"StringLike": {OU: "${?}evops"}}, "StringLike"),
    ({"StringEquals": {OU: "${$}devops"}}, "StringEquals"),
    # What is not known is refused, even if IfExists would forgive a missing key.
    ({"StringEquals": {"aws:username": "x"}}, "refused: unknown key aws:username in statement 1"),
    ({"StringEqualsIfExists": {"aws:username": "x"}}, "refused: unknown key aws:username in statement 1"),
    ({"StringNotEquals": {"sts:ExternalId": "x"}}, "refused: unknown key sts:ExternalId in statement 1"),
    ({"Null": {"aws:OriginIdentity/a": "true"}}, "refused: unknown key aws:OriginIdentity/a"),
    ({"StringEquals": {"aws:PrincipalTag/": "x"}}, "refused: unknown key aws:PrincipalTag/"),
    ({"StringEquals": {"aws:SourceArn/x": "x"}}, "refused: unknown key aws:SourceArn/x"),
    ({"StringEquals": {OU: "${aws:username}"}}, "refused: unknown key aws:username in statement 1"),
    ({"StringEquals": {OU: ["devops", "${aws:username, 'x'}"]}}, "refused: unknown key aws:username"),
    ({"StringEquals": {"aws:TagKeys": "x509Subject/CN"}}, "refused: unknown meaning of a key with several values"),
    (
        {"StringEquals": {OU: "${aws:TagKeys}"}},
        "refused: unknown meaning of a key with several values in ${aws:TagKeys}",
    ),
    ({"DateLessThan": {OU: "2026-01-01"}}, f"refused: unknown use of DateLessThan with {OU} in statement 1"),
    ({"NumericEquals": {"aws:SourceAccount": 123456789012}}, "refused: unknown use of NumericEquals"),
    ({"StringEquals": {"aws:CurrentTime": "2026-01-31T12:30:00Z"}}, "refused: unknown use of StringEquals"),
    ({"Bool": {"aws:SourceArn": "true"}}, "refused: unknown use of Bool"),
    ({"ArnNotLike": {"aws:PrincipalTag/x509SAN/URI": "spiffe:a:b:c:d:*"}}, "refused: unknown use of ArnNotLike"),
    # A condition that is not met makes the unknown one irrelevant.
    ({"StringEquals": {"aws:username": "x", OU: "ops"}}, f"statement 1 requires StringEquals {OU} 'ops'"),
]


@pytest.mark.parametrize(("condition", "words"), CONDITIONS, ids=lambda value: json.dumps(value)[:100])
def test_condition_is_judged_and_a_refusal_names_it(condition: dict[str, Any], words: str) -> None:
    for document in (policy(statement(condition)), json.dumps(policy(statement(condition))).encode()):
        decision = TrustPolicy(document).decide(ASSUME, context())
        assert (decision.allowed, words in decision.reason) == (not words, True)


@pytest.mark.parametrize(("condition", "words"), CONDITIONS, ids=lambda value: json.dumps(value)[:100])
def test_deny_statement_applies_when_its_condition_is_met_or_unknown(condition: dict[str, Any], words: str) -> None:
    document = policy(statement(), statement(condition, Effect="Deny"))
    decision = TrustPolicy(document).decide(ASSUME, context())
    reason = "" if decision.allowed else decision.reason
    if not words:
        assert reason.endswith("statement 2 denies it")
    elif "unknown" in words:
        assert "refused: unknown" in reason
        assert reason.endswith("in statement 2, a Deny")
    else:
        assert reason == ""


ASSUME, TAG, IDENTITY = ACTIONS
EVERYONE_ELSE = {"AWS": ["arn:aws:iam::123456789012:root", "123456789012", "AROAJQABLZS4A3QDU576Q"]}
EKS = policy(
    statement({"ArnEquals": {"aws:SourceArn": ANCHOR}}, Action=[TAG, IDENTITY]),
    statement(
        {"StringEquals": {"sts:RoleSessionName": NAME_IS_CN}, "ArnEquals": {"aws:SourceArn": ANCHOR}}, Action=ASSUME
    ),
)
# A policy, and for each action the words of its refusal, or an empty string if it is allowed.
POLICIES: dict[str, tuple[Any, ...]] = {
    "one statement, not in a list": ({"Version": "2012-10-17", "Statement": statement()}, "", "", ""),
    "Id and Sid": (policy(statement(Sid="One1"), Id="any text"), "", "", ""),
    "an empty Sid": (policy(statement(Sid=""), statement(Sid="")), "", "", ""),
    "only sts:AssumeRole": (
        policy(statement(Action=ASSUME)),
        *("", "statement 1 does not have this action", "statement 1 does not have this action"),
    ),
    "an action for each statement": (policy(*(statement(Action=action) for action in ACTIONS)), "", "", ""),
    "no sts:SetSourceIdentity": (policy(statement(Action=[ASSUME, TAG])), "", "", "does not have this action"),
    "actions in another case": (policy(statement(Action=["STS:assumerole", "sts:TAGSESSION"])), "", "", "this action"),
    "a wildcard": (policy(statement(Action="sts:*")), "", "", ""),
    "wildcards": (policy(statement(Action=["sts:Assume*", "sts:?agSession"])), "", "", "this action"),
    "the actions of others": (policy(statement(Action="sts:AssumeRoleWithSAML")), *["this action"] * 3),
    "everyone": (policy(statement(Principal="*")), "", "", ""),
    "everyone, as AWS": (policy(statement(Principal={"AWS": "*"})), "", "", ""),
    "the service among others": (
        policy(statement(Principal={"Service": ["ec2.amazonaws.com", "rolesanywhere.amazonaws.com"], **EVERYONE_ELSE})),
        *("", "", ""),
    ),
    "another service": (
        policy(statement(Principal={"Service": "ec2.amazonaws.com"})),
        *["statement 1 is not for rolesanywhere.amazonaws.com"] * 3,
    ),
    "accounts, roles and providers": (
        policy(statement(Principal={**EVERYONE_ELSE, "Federated": "cognito-identity.amazonaws.com"})),
        *["statement 1 is not for rolesanywhere.amazonaws.com"] * 3,
    ),
    "a Deny for another service": (
        policy(statement(), statement(Effect="Deny", Principal={"Service": "ec2.amazonaws.com"})),
        *("", "", ""),
    ),
    "a Deny of one action": (
        policy(statement(), statement(Effect="Deny", Action=TAG, Sid="NoTags")),
        *("", "statement 2 (NoTags) denies it", ""),
    ),
    "a Deny before the Allow": (policy(statement(Effect="Deny"), statement()), *["statement 1 denies it"] * 3),
    "only a Deny": (policy(statement(Effect="Deny", Action=TAG)), *("no statement", "denies it", "no statement")),
    "a Deny of other units": (
        policy(statement(), statement({"StringNotEquals": {OU: ["ops", "dev"]}}, Effect="Deny", Principal="*")),
        *["statement 2 denies it"] * 3,
    ),
    "an unknown key in another's statement": (
        policy(statement(), statement({"StringEquals": {"sts:ExternalId": "x"}}, Principal=EVERYONE_ELSE)),
        *("", "", ""),
    ),
    "an unknown key beside an Allow": (
        policy(statement({"StringEquals": {"sts:ExternalId": "x"}}), statement(Action=ASSUME)),
        *("", "refused: unknown key sts:ExternalId in statement 1", "refused: unknown key sts:ExternalId"),
    ),
    "alternatives": (
        policy(statement({"StringEquals": {OU: "ops"}}), statement({"StringLike": {CN: "bamboo-*"}})),
        *("", "", ""),
    ),
    "alternatives, none met": (
        policy(statement({"StringEquals": {OU: "ops"}}, Sid="A"), statement({"StringEquals": {CN: "x"}}, Sid="B")),
        *[f"statement 1 (A) requires StringEquals {OU} 'ops', but it is 'devops'; statement 2 (B) requires"] * 3,
    ),
    "EKS hybrid nodes": (EKS, "", "", ""),
    "no Version, so no variables": (
        {"Statement": [statement({"StringEquals": {"sts:RoleSessionName": NAME_IS_CN}})]},
        f"'{NAME_IS_CN}' (only Version 2012-10-17 has variables), but it is 'bamboo-01'",
        *[f"'{NAME_IS_CN}' (only Version 2012-10-17 has variables), but the request does not have it"] * 2,
    ),
    "an old Version with wildcards": (
        policy(statement({"StringLike": {CN: "b*$*1", OU: "*$"}}), Version="2008-10-17"),
        *["StringLike aws:PrincipalTag/x509Subject/CN 'b*$*1'"] * 3,
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_each_action_is_decided_by_itself(name: str) -> None:
    document, *expected = POLICIES[name]
    for action, words in zip(ACTIONS, expected, strict=True):
        decision = TrustPolicy(document).decide(action, context())
        assert (decision.action, decision.allowed) == (action, not words)
        assert (words or "allows it") in decision.reason


def test_refusal_names_the_actions_that_share_a_reason() -> None:
    assert TrustPolicy(EKS).refusal(context("web")) == (
        "the trust policy does not allow sts:AssumeRole: statement 2 requires StringEquals sts:RoleSessionName "
        f"'{NAME_IS_CN}' ({NAME_IS_CN} is 'bamboo-01'), but it is 'web'"
    )
    partial = policy(statement(Action=ASSUME, Sid="First"))
    assert TrustPolicy(partial).refusal(context()) == (
        "the trust policy does not allow sts:TagSession, sts:SetSourceIdentity: "
        "statement 1 (First) does not have this action"
    )


def test_request_without_tags_has_no_tag_keys() -> None:
    bare = request_context(trust_anchor=ANCHOR, tags={}, session_name="x", source_identity="ID=01", now=NOW)
    assert TrustPolicy(policy(statement({"Null": {"aws:TagKeys": "true", CN: "true"}}))).refusal(bare) == ""


@pytest.mark.timeout(20)
def test_many_wildcards_are_judged_in_bounded_time() -> None:
    document = policy(statement({"StringLike": {CN: "*a" * 200 + "b"}}))
    assert "requires" in TrustPolicy(document).refusal(context(**{"x509Subject/CN": "a" * 256}))


INVALID: list[tuple[Any, str]] = [
    ("", "not JSON"),
    ("[]", "the trust policy is not a JSON object"),
    ('{"Statement": [], "Statement": []}', "a member is named twice"),
    (b"\xff", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ({}, "the trust policy has no Statement"),
    ({"Statement": []}, "has no statement"),
    ({"Statement": ["x"]}, "statement 1 is not a JSON object"),
    (policy(statement(), Version="2012-10-18"), "Version '2012-10-18', not 2008-10-17 or 2012-10-17"),
    (policy(statement(), Statements=[]), "the trust policy has Statements, which is unknown"),
    (policy(statement(), statement(Resource="*")), "statement 2 has Resource, which is unknown or not for trust"),
    (policy(statement(NotAction="sts:TagSession")), "statement 1 has NotAction"),
    (policy(statement(NotPrincipal="*")), "statement 1 has NotPrincipal"),
    (policy({"Effect": "Allow", "Action": ASSUME}), "statement 1 has no Principal"),
    (policy({"Effect": "Allow", "Principal": "*"}), "statement 1 has no Action"),
    (policy(statement(Effect="allow")), "statement 1 has Effect 'allow', not Allow or Deny"),
    (policy(statement(Sid="a b")), "a Sid that is not letters and digits"),
    (policy(statement(Sid=1)), "a Sid that is not letters and digits"),
    (policy(statement(Sid="a"), statement(Sid="a")), "has a Sid twice"),
    (policy(statement(Principal="rolesanywhere.amazonaws.com")), "neither * nor an object"),
    (policy(statement(Principal={})), "neither * nor an object"),
    (policy(statement(Principal={"Services": "x.amazonaws.com"})), "a principal of the unknown type Services"),
    (policy(statement(Principal={"CanonicalUser": "x"})), "a principal of the unknown type CanonicalUser"),
    (policy(statement(Principal={"Service": "*"})), "'*', which is not a principal of type Service"),
    (policy(statement(Principal={"Service": "rolesanywhere"})), "'rolesanywhere', which is not a principal"),
    (policy(statement(Principal={"Service": []})), "neither a string nor a list of strings"),
    (policy(statement(Principal={"AWS": "arn:aws:iam::123456789012:role/*"})), "which is not a principal of type AWS"),
    (policy(statement(Principal={"AWS": 123456789012})), "neither a string nor a list of strings"),
    (policy(statement(Action=[])), "the Action of statement 1 is neither a string nor a list of strings"),
    (policy(statement(Action=[ASSUME, 1])), "neither a string nor a list of strings"),
    (policy(statement(Action=[ASSUME, "sts:TagSessions"])), "the action 'sts:TagSessions', which is not one of sts:"),
    (policy(statement(Action="*")), "the action '*'"),
    (policy(statement(Action="s3:*")), "the action 's3:*'"),
    (policy(statement(Action="sts:GetCallerIdentity")), "the action 'sts:GetCallerIdentity'"),
    (policy(statement([])), "a Condition that is not an object"),
    (policy(statement({"StringEquals": "x"})), "a Condition that is not an object"),
    (policy(statement({"StringMatches": {CN: "x"}})), "statement 1: unknown operator StringMatches"),
    (policy(statement({"stringEquals": {CN: "x"}})), "unknown operator stringEquals"),
    (policy(statement({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})), "unknown operator IpAddress"),
    (policy(statement({"BinaryEquals": {CN: "eA=="}})), "unknown operator BinaryEquals"),
    (policy(statement({"ForSomeValues:StringEquals": {CN: "x"}})), "unknown operator ForSomeValues:StringEquals"),
    (policy(statement({"NullIfExists": {CN: "true"}})), "unknown operator NullIfExists"),
    (policy(statement({"ForAllValues:Null": {CN: "true"}})), "unknown operator ForAllValues:Null"),
    (policy(statement({"StringEquals": {CN: "x", CN.upper(): "y"}})), "a key of StringEquals twice"),
    (policy(statement({"StringEquals": {CN: []}})), f"StringEquals {CN} has no value"),
    (policy(statement({"StringEquals": {CN: None}})), "not a string, number or boolean"),
    (policy(statement({"StringEquals": {CN: [["x"]]}})), "not a string, number or boolean"),
    (policy(statement({"StringEquals": {CN: "${aws:PrincipalTag/x"}})), "x', a malformed policy variable"),
    (policy(statement({"StringEquals": {CN: "${}"}})), "a malformed policy variable"),
    (policy(statement({"StringLike": {CN: "a${aws:SourceArn,'x'}"}})), "a malformed policy variable"),
    (policy(statement({"ArnEquals": {"aws:SourceArn": "*:*"}})), "the value '*:*', not an ARN, which has six parts"),
    (policy(statement({"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*"}})), "not an ARN"),
    (policy(statement({"ArnLike": {"aws:SourceArn": "arn:aws:x::${aws:SourceAccount}"}})), "not an ARN"),
    (policy(statement({"DateLessThan": {"aws:CurrentTime": "tomorrow"}})), "'tomorrow', not a date such as"),
    (policy(statement({"DateLessThan": {"aws:CurrentTime": "2026"}})), "'2026', not a date such as"),
    (policy(statement({"DateLessThan": {"aws:CurrentTime": "2026-02-30"}})), "not a date"),
    (policy(statement({"DateLessThan": {"aws:CurrentTime": "2026-W05"}})), "not a date"),
    (policy(statement({"DateLessThan": {"aws:CurrentTime": "999999999999"}})), "not a date"),
    (policy(statement({"DateLessThan": {"aws:CurrentTime": "${aws:CurrentTime}"}})), "not a date"),
    (policy(statement({"NumericEquals": {"aws:EpochTime": "many"}})), "'many', not a number"),
    (policy(statement({"NumericEquals": {"aws:EpochTime": "Infinity"}})), "not a number"),
    (policy(statement({"Bool": {"aws:PrincipalIsAWSService": "yes"}})), "'yes', neither true nor false"),
    (policy(statement({"Null": {CN: ""}})), "'', neither true nor false"),
]


@pytest.mark.parametrize(("document", "words"), INVALID, ids=range(len(INVALID)))
def test_invalid_document_is_an_error_that_names_the_part(document: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrustPolicy(document)
    assert words in caught.value.message
    assert caught.value.hint


def test_documentation_lists_every_operator_and_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "emulator.md").read_text()
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert not [operator for operator in OPERATORS if f"`{operator}`" not in rows]
    assert not [key for key in KEYS if f"`{key}" not in rows]


conditions = st.sampled_from([condition for condition, _ in CONDITIONS])
statements = st.builds(
    statement,
    conditions,
    Effect=st.sampled_from(["Allow", "Allow", "Deny"]),
    Principal=st.sampled_from([ROLES_ANYWHERE, "*", EVERYONE_ELSE]),
    Action=st.lists(st.sampled_from([*ACTIONS, "sts:*"]), min_size=1),
)
policies = st.lists(statements, min_size=1, max_size=4)


def allowed(*statements: dict[str, Any]) -> set[str]:
    made = TrustPolicy(policy(*statements))
    return {action for action in ACTIONS if made.decide(action, context()).allowed}


@given(policies, st.data())
def test_order_of_statements_does_not_matter(made: list[dict[str, Any]], data: st.DataObject) -> None:
    assert allowed(*data.draw(st.permutations(made))) == allowed(*made)


@given(policies, st.sampled_from(ACTIONS), st.data())
def test_deny_that_matches_is_never_overruled(made: list[dict[str, Any]], action: str, data: st.DataObject) -> None:
    denial = statement(Effect="Deny", Action=action, Principal=data.draw(st.sampled_from(["*", ROLES_ANYWHERE])))
    assert allowed(*data.draw(st.permutations([*made, denial]))) == allowed(*made) - {action}


@given(policies, statements)
def test_another_statement_only_adds_if_it_allows_and_only_removes_if_it_denies(
    made: list[dict[str, Any]], other: dict[str, Any]
) -> None:
    before, after = allowed(*made), allowed(*made, other)
    assert before <= after if other["Effect"] == "Allow" else after <= before


@given(policies, st.data())
def test_another_condition_never_allows_more(made: list[dict[str, Any]], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(made) - 1))
    changed, added = made[index], data.draw(conditions)
    # Operators that the statement has already stay as they are.
    stricter = {**changed, "Condition": {**added, **changed["Condition"]}}
    after = allowed(*made[:index], stricter, *made[index + 1 :])
    assert after <= allowed(*made) if changed["Effect"] == "Allow" else after >= allowed(*made)


@given(conditions)
def test_negated_operator_is_the_opposite_when_the_key_is_present(condition: dict[str, Any]) -> None:
    for operator, keys in condition.items():
        for key, value in keys.items():
            if "Not" not in operator and ":" not in operator and f"{operator}".startswith(("String", "Arn")):
                negated = operator.replace("String", "StringNot").replace("Arn", "ArnNot")
                both = [TrustPolicy(policy(statement({each: {key: value}}))) for each in (operator, negated)]
                decisions = [each.decide(ASSUME, context()) for each in both]
                met = [each.allowed for each in decisions]
                unknown = ["unknown" in each.reason for each in decisions]
                missing = key.lower() not in context()
                assert met.count(True) == 1 or all(unknown) or (missing and operator.endswith("IfExists"))


@given(st.text(alphabet="ab?*$", max_size=8), st.text(alphabet="ab", max_size=8))
def test_wildcards_equal_a_search_of_all_ways(pattern: str, value: str) -> None:
    def like(pattern: str, value: str) -> bool:
        if not pattern:
            return not value
        if pattern[0] == "*":
            return like(pattern[1:], value) or (bool(value) and like(pattern, value[1:]))
        return bool(value) and pattern[0] in ("?", value[0]) and like(pattern[1:], value[1:])

    document = policy(statement({"StringLike": {CN: pattern}}), Version="2008-10-17")
    reason = TrustPolicy(document).refusal(context(**{"x509Subject/CN": value}))
    assert (reason == "") == like(pattern, value)


def test_policy_keeps_its_document() -> None:
    text = f"{json.dumps(policy(statement({})), indent=1)}\n"
    assert TrustPolicy(text).document == TrustPolicy(text.encode()).document == text
    assert json.loads(TrustPolicy(json.loads(text)).document) == json.loads(text)


@pytest.mark.parametrize("value", ['"1_000"', '"\u0661"', '" 1"', "NaN", "Infinity", '"1e9999"'])
def test_number_that_iam_does_not_know_is_refused(value: str) -> None:
    condition = f'{{"NumericLessThan": {{"aws:EpochTime": {value}}}}}'
    statement = f'{{"Effect": "Allow", "Principal": "*", "Action": "sts:*", "Condition": {condition}}}'
    with pytest.raises(ConfigError):
        TrustPolicy(f'{{"Version": "2012-10-17", "Statement": [{statement}]}}')


def test_constant_that_json_does_not_have_is_refused() -> None:
    condition = '{"StringEquals": {"aws:PrincipalTag/x509Subject/CN": NaN}}'
    statement = f'{{"Effect": "Allow", "Principal": "*", "Action": "sts:*", "Condition": {condition}}}'
    with pytest.raises(ConfigError, match="NaN"):
        TrustPolicy(f'{{"Statement": [{statement}]}}')


# By AWS's documents: conditions, and the actions for which they are met.
BY_ACTION: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"StringEquals": {CN: "bamboo-01", "aws:SourceAccount": "123456789012"}}, (ASSUME, TAG, IDENTITY)),
    ({"ArnEquals": {"aws:SourceArn": ANCHOR}}, (ASSUME, TAG, IDENTITY)),
    ({"StringEquals": {"sts:SourceIdentity": "CN=bamboo-01"}}, (ASSUME, IDENTITY)),
    ({"StringEquals": {"sts:RoleSessionName": "bamboo-01"}}, (ASSUME,)),
    ({"StringEquals": {CN: "${sts:RoleSessionName}"}}, (ASSUME,)),
    ({"StringEquals": {"aws:RequestTag/x509Subject/CN": "bamboo-01"}}, (ASSUME, TAG)),
    ({"ForAnyValue:StringEquals": {"aws:TagKeys": "x509Subject/CN"}}, (ASSUME, TAG)),
    ({"StringNotEquals": {"sts:SourceIdentity": "CN=bamboo-01"}}, (TAG,)),
    ({"StringEqualsIfExists": {"sts:SourceIdentity": "CN=bamboo-02"}}, (TAG,)),
    ({"Null": {"sts:SourceIdentity": "true"}}, (TAG,)),
    ({"Null": {"sts:RoleSessionName": "true"}}, (TAG, IDENTITY)),
]


@pytest.mark.parametrize(("condition", "expected"), BY_ACTION, ids=lambda value: json.dumps(value)[:90])
def test_key_that_aws_does_not_list_for_an_action_is_missing_there(
    condition: dict[str, Any], expected: tuple[str, ...]
) -> None:
    judge = TrustPolicy(policy(statement(condition)))
    assert tuple(each for each in ACTIONS if judge.decide(each, context()).allowed) == expected
    every = {judge.decide(each, context(), every_key=True).allowed for each in ACTIONS}
    assert every == {ASSUME in expected}


def test_each_key_has_its_actions_and_a_source() -> None:
    assert {key.partition("/")[0] for key in ACTION_KEYS} == {key.partition("/")[0] for key in KEYS}
    assert all(each.source and set(each.actions) <= set(ACTIONS) for each in ACTION_KEYS.values())
