"""Who may assume a role, in words."""

from __future__ import annotations

from typing import Any

import pytest

from hwsigner.trust_policy import ACTIONS
from hwsigner.trust_policy.sentences import admitted_anchors, who_may_assume

ANCHOR = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"
OTHER = ANCHOR.replace("0e5a", "1e5a")
CN = "aws:PrincipalTag/x509Subject/CN"


def policy(condition: dict[str, Any], **more: Any) -> dict[str, Any]:
    service = {"Service": "rolesanywhere.amazonaws.com"}
    statement = {"Effect": "Allow", "Principal": service, "Action": list(ACTIONS), "Condition": condition, **more}
    return {"Version": "2012-10-17", "Statement": statement}


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({}, "lets in every certificate of every trust anchor"),
        ({"StringEquals": {CN: ["a", "b"]}}, "lets in certificates, if x509Subject/CN is 'a' or 'b'"),
        ({"StringLike": {CN: "a*"}}, "lets in certificates, if x509Subject/CN is like 'a*'"),
        ({"StringNotEquals": {CN: "a"}}, "lets in certificates, if x509Subject/CN is not 'a'"),
        ({"ForAllValues:StringEquals": {CN: "a"}}, "lets in certificates, if x509Subject/CN is 'a' or is missing"),
        ({"StringEqualsIfExists": {CN: "a"}}, "lets in certificates, if x509Subject/CN is 'a' or is missing"),
        ({"Null": {CN: "false"}}, "lets in certificates, if x509Subject/CN is there"),
        ({"Null": {CN: True}}, "lets in certificates, if x509Subject/CN is missing"),
        (
            {"DateLessThan": {"aws:CurrentTime": "2030-01-01"}},
            "lets in certificates, if the time is before '2030-01-01'",
        ),
        (
            {"StringEquals": {CN: "a"}, "ArnEquals": {"aws:SourceArn": ANCHOR}},
            f"lets in certificates, if x509Subject/CN is 'a' and the trust anchor is {ANCHOR!r}",
        ),
    ],
)
def test_statement_is_worded(condition: dict[str, Any], words: str) -> None:
    assert who_may_assume(policy(condition)) == [f"statement 1 {words}"]


def test_deny_and_other_principals_are_worded() -> None:
    assert who_may_assume(policy({"StringEquals": {CN: "a"}}, Effect="Deny", Sid="Not")) == [
        "statement 1 (Not) keeps out certificates, if x509Subject/CN is 'a'"
    ]
    assert who_may_assume(policy({}, Principal={"Service": "ec2.amazonaws.com", "AWS": "123456789012"})) == [
        "statement 1 lets in, without Roles Anywhere, ec2.amazonaws.com, 123456789012"
    ]
    assert who_may_assume(policy({}, Principal="*"))[1] == "statement 1 lets in, without Roles Anywhere, everyone"


def test_anchors_are_admitted_whatever_the_certificate_is() -> None:
    pinned = policy({"StringEquals": {CN: "a"}, "ArnEquals": {"aws:SourceArn": ANCHOR}})
    assert admitted_anchors(pinned, [ANCHOR, OTHER]) == [ANCHOR]
    assert admitted_anchors(policy({"StringEquals": {CN: "a"}}), [ANCHOR, OTHER]) == [ANCHOR, OTHER]
    assert admitted_anchors(policy({}, Action="sts:AssumeRole", Effect="Deny"), [ANCHOR]) == []
