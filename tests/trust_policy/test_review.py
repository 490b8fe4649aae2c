"""The review of trust policies: a table of policies with their mistakes, and laws that all policies obey.

The right answers follow from the IAM User Guide and the Roles Anywhere User Guide, not from the code.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.errors import ConfigError
from hwsigner.findings import policies
from hwsigner.trust_policy import ACTIONS, TrustPolicy, request_context
from hwsigner.trust_policy.conditions import OPERATORS
from hwsigner.trust_policy.review import review
from hwsigner.trust_policy.writing import write_trust_policy
from mistakes import mistakes_of

UUID = "0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"
ANCHOR = f"arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/{UUID}"
SERVICE = {"Service": "rolesanywhere.amazonaws.com"}
NOW = datetime(2026, 1, 31, tzinfo=UTC)
CN, OU = "aws:PrincipalTag/x509Subject/CN", "aws:PrincipalTag/x509Subject/OU"
PINNED = {"ArnEquals": {"aws:SourceArn": ANCHOR}}
NAMED = {"StringEquals": {CN: "bamboo-01"}}
ASSUME, *OTHERS = ACTIONS
GITHUB = "oidc-provider/token.actions.githubusercontent.com"
ORG, COUNTRY = "aws:PrincipalTag/x509Subject/O", "aws:PrincipalTag/x509Subject/C"
ISSUER, ISSUER_O = "aws:PrincipalTag/x509Issuer/CN", "aws:PrincipalTag/x509Issuer/O"
SEVEN = [f"aws:PrincipalTag/x509Subject/{name}" for name in ("CN", "OU", "O", "L", "ST", "C", "UID")]


def policy(*statements: dict[str, Any], **elements: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements), **elements}


def allow(*conditions: dict[str, Any], **elements: Any) -> dict[str, Any]:
    """Return an Allow statement whose Condition has all members of some conditions."""
    made = {"Effect": "Allow", "Principal": SERVICE, "Action": list(ACTIONS), **elements}
    merged: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        for operator, keys in condition.items():
            merged.setdefault(operator, {}).update(keys)
    return {**made, "Condition": merged} if merged else made


def deny(*conditions: dict[str, Any], **elements: Any) -> dict[str, Any]:
    return allow(*conditions, Effect="Deny", **elements)


def anchor(**parts: str) -> dict[str, Any]:
    """Return a condition for the trust anchor's ARN with some text replaced."""
    value = ANCHOR
    for old, new in parts.items():
        value = value.replace({"region": "eu-central-1", "account": "123456789012", "id": UUID}[old], new)
    return {"ArnEquals": {"aws:SourceArn": value}}


def ids(document: Any, trust_anchor: str = ANCHOR) -> set[str]:
    return {each.id for each in review(document, trust_anchor=trust_anchor, now=NOW)}


# In so many regions and accounts that not every combination of them can be tried.
MANY_ANCHORS = [f"arn:aws:rolesanywhere:r{i}:{100000000000 + i}:trust-anchor/{UUID}" for i in range(40)]

# Policies, and the mistakes that the review must name: all of them, and no others.
TABLE: list[tuple[str, Any, set[str]]] = [
    # Good ones.
    ("the example of the user guide", policy(allow(PINNED, NAMED)), set()),
    ("a pattern", policy(allow(PINNED, {"StringLike": {CN: "bamboo-*"}})), set()),
    ("ignoring case", policy(allow(PINNED, {"StringEqualsIgnoreCase": {CN: "Bamboo-01"}})), set()),
    ("two names", policy(allow(PINNED, {"StringEquals": {CN: "bamboo-01", OU: "devops"}})), set()),
    (
        "names of the issuer and a SAN",
        policy(
            allow(
                PINNED,
                {
                    "StringEquals": {
                        "aws:PrincipalTag/x509Issuer/CN": "CA",
                        "aws:PrincipalTag/x509SAN/URI": "spiffe://a/b",
                    }
                },
            )
        ),
        set(),
    ),
    ("a name inside a SAN", policy(allow(PINNED, {"StringEquals": {"aws:PrincipalTag/x509SAN/Name/CN": "a"}})), set()),
    (
        "two trust anchors",
        policy(allow(NAMED, {"ArnEquals": {"aws:SourceArn": [ANCHOR, ANCHOR.replace("aa", "bb")]}})),
        set(),
    ),
    ("a trust anchor as text", policy(allow(NAMED, {"StringEquals": {"aws:SourceArn": ANCHOR}})), set()),
    (
        "the source identity",
        policy(
            allow(PINNED, {"StringEquals": {"sts:SourceIdentity": "CN=bamboo-01"}}, Action=ASSUME),
            allow(PINNED, Action=OTHERS),
        ),
        set(),
    ),
    (
        "the source identity in one statement",
        policy(allow(PINNED, {"StringEquals": {"sts:SourceIdentity": "CN=bamboo-01"}})),
        {"key-by-action"},
    ),
    (
        "the source identity for two actions",
        policy(
            allow(PINNED, {"StringEquals": {"sts:SourceIdentity": "CN=bamboo-01"}}, Action=[ASSUME, OTHERS[1]]),
            allow(PINNED, Action=OTHERS[0]),
        ),
        set(),
    ),
    (
        "a Deny for a source identity",
        policy(allow(PINNED, NAMED), deny({"StringEquals": {"sts:SourceIdentity": "CN=evil"}})),
        set(),
    ),
    (
        "a Deny for all but a source identity",
        policy(allow(PINNED, NAMED), deny({"StringNotEquals": {"sts:SourceIdentity": "CN=bamboo-01"}})),
        {"key-by-action"},
    ),
    (
        "the tag of the request",
        policy(allow(PINNED, {"StringEquals": {"aws:RequestTag/x509Subject/CN": "a"}})),
        {"key-by-action"},
    ),
    ("keys in lower case", policy(allow(PINNED, {"StringEquals": {"aws:principaltag/x509subject/cn": "a"}})), set()),
    (
        "a session name that is the CN",
        policy(
            allow(
                PINNED,
                NAMED,
                {"StringEquals": {CN: "bamboo-01", "sts:RoleSessionName": "${aws:PrincipalTag/x509Subject/CN}"}},
                Action=ASSUME,
            ),
            allow(PINNED, Action=OTHERS),
        ),
        set(),
    ),
    ("a negated operator beside a positive one", policy(allow(PINNED, NAMED, {"StringNotEquals": {OU: "ops"}})), set()),
    ("a wildcard beside a value", policy(allow(PINNED, NAMED, {"StringLike": {OU: "*"}})), set()),
    (
        "ForAllValues with a check for presence",
        policy(allow(PINNED, {"ForAllValues:StringEquals": {CN: "bamboo-01"}, "Null": {CN: "false"}})),
        set(),
    ),
    ("a Deny for all but one OU", policy(allow(PINNED), deny({"StringNotEquals": {OU: "devops"}})), set()),
    ("a Deny for other trust anchors", policy(allow(NAMED), deny({"ArnNotEquals": {"aws:SourceArn": ANCHOR}})), set()),
    (
        "another service beside it",
        policy(allow(PINNED, NAMED), allow(Principal={"Service": "ec2.amazonaws.com"}, Action="sts:AssumeRole")),
        set(),
    ),
    (
        "an account beside it",
        policy(
            allow(PINNED, NAMED), allow(Principal={"AWS": "arn:aws:iam::123456789012:root"}, Action="sts:AssumeRole")
        ),
        set(),
    ),
    (
        "an account with tags and keys of its own beside it",
        policy(
            allow(PINNED, NAMED),
            allow(
                {"StringEquals": {"aws:PrincipalTag/Team": "web", "sts:ExternalId": "1", "aws:PrincipalOrgID": "o-1"}},
                Principal={"AWS": "123456789012"},
                Action="sts:AssumeRole",
            ),
        ),
        set(),
    ),
    (
        "an identity provider beside it",
        policy(
            allow(PINNED, NAMED),
            allow(
                {"StringLike": {"app.terraform.io:sub": "organization:a:*"}},
                Principal={"Federated": "arn:aws:iam::123456789012:oidc-provider/app.terraform.io"},
                Action="sts:AssumeRoleWithWebIdentity",
            ),
        ),
        set(),
    ),
    (
        "a pattern of accounts",
        policy(allow({"StringLike": {"aws:SourceAccount": "1234*12", CN: "a"}})),
        {"source-account-only"},
    ),
    (
        "two names that exclude each other",
        policy(allow(PINNED, NAMED, {"StringLike": {CN: "web-*"}})),
        {"contradiction"},
    ),
    (
        "a name and not the name",
        policy(allow(PINNED, NAMED, {"StringNotEquals": {CN: "bamboo-01"}})),
        {"contradiction"},
    ),
    ("a name in two conditions", policy(allow(PINNED, NAMED, {"StringLike": {CN: "bamboo-*"}})), set()),
    (
        "one of two names",
        policy(allow(PINNED, {"StringEquals": {CN: ["a", "b"]}, "StringNotEquals": {CN: "a"}})),
        set(),
    ),
    ("a name that must be missing", policy(allow(PINNED, NAMED, {"Null": {CN: "true"}})), {"contradiction"}),
    ("a Deny for two conditions", policy(allow(PINNED, NAMED), deny(NAMED, {"StringLike": {CN: "web-*"}})), set()),
    (
        "a time limit that passed",
        policy(allow(PINNED, NAMED, {"DateLessThan": {"aws:CurrentTime": "2020-01-01"}})),
        {"date-passed"},
    ),
    (
        "a time limit in seconds that passed",
        policy(allow(PINNED, NAMED, {"DateLessThanEquals": {"aws:EpochTime": 1500000000}})),
        {"date-passed"},
    ),
    (
        "a number of seconds that passed",
        policy(allow(PINNED, NAMED, {"NumericLessThan": {"aws:EpochTime": "1500000000"}})),
        {"date-passed"},
    ),
    (
        "one name, and another that it must not have if it has any",
        policy(allow(PINNED, NAMED, {"StringNotEqualsIfExists": {OU: "test"}})),
        set(),
    ),
    (
        "a Deny since a day that passed",
        policy(allow(PINNED, NAMED), deny({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01"}})),
        {"shut"},
    ),
    (
        "a Deny of the only name since a day that passed",
        policy(allow(PINNED, NAMED), deny(NAMED, {"NumericGreaterThanEquals": {"aws:EpochTime": "1500000000"}})),
        {"shut"},
    ),
    (
        "a Deny from a later day on",
        policy(allow(PINNED, NAMED), deny({"DateGreaterThan": {"aws:CurrentTime": "2100-01-01"}})),
        set(),
    ),
    (
        "a Deny until a later day",
        policy(allow(PINNED, NAMED), deny({"DateLessThan": {"aws:CurrentTime": "2100-01-01"}})),
        set(),
    ),
    (
        "a key of web identities",
        policy(allow(PINNED, NAMED, {"StringEquals": {"aws:OriginIdentity/Issuer": "https://example.com"}})),
        {"shut"},
    ),
    (
        "placeholders",
        policy(
            allow(
                {
                    "StringEquals": {CN: "<EXPECTED_CN>"},
                    "ArnEquals": {"aws:SourceArn": "arn:aws:rolesanywhere:<REGION>:<ACCOUNT>:trust-anchor/<ID>"},
                }
            )
        ),
        {"source-arn-kind", "value-impossible"},
    ),
    (
        "the account and its trust anchor",
        policy(allow(PINNED, {"StringEquals": {"aws:SourceAccount": "123456789012", CN: "bamboo-01"}})),
        set(),
    ),
    (
        "AssumeRole alone has the conditions",
        policy(
            allow(PINNED, NAMED, Action="sts:AssumeRole"), allow(Action=["sts:TagSession", "sts:SetSourceIdentity"])
        ),
        set(),
    ),
    (
        "two statements for two trust anchors",
        policy(allow(PINNED, NAMED), allow(anchor(region="us-east-1"), NAMED)),
        set(),
    ),
    ("a time limit", policy(allow(PINNED, NAMED, {"DateLessThan": {"aws:CurrentTime": "2030-01-01"}})), set()),
    ("actions with a wildcard", policy(allow(PINNED, NAMED, Action="sts:*")), set()),
    # Open ones.
    ("no condition", policy(allow()), {"condition-none"}),
    ("an empty condition", policy({**allow(), "Condition": {}}), {"condition-none"}),
    ("a name alone", policy(allow(NAMED)), {"source-arn-none"}),
    ("a trust anchor alone", policy(allow(PINNED)), {"tag-none"}),
    (
        "the account alone",
        policy(allow({"StringEquals": {"aws:SourceAccount": "123456789012"}})),
        {"source-account-only", "tag-none"},
    ),
    (
        "the account and a name",
        policy(allow({"StringEquals": {"aws:SourceAccount": "123456789012", CN: "a"}})),
        {"source-account-only"},
    ),
    (
        "a session name alone",
        policy(allow(PINNED, {"StringLike": {"sts:RoleSessionName": "bamboo-*"}})),
        {"tag-none", "key-by-action"},
    ),
    ("any trust anchor of the account", policy(allow(NAMED, anchor(id="*"))), {"source-arn-any"}),
    (
        "any trust anchor at all",
        policy(allow(NAMED, {"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:*:*:*"}})),
        {"source-arn-any"},
    ),
    (
        "a trust anchor of any account by a variable",
        policy(
            allow(
                NAMED,
                {
                    "ArnLike": {
                        "aws:SourceArn": "arn:aws:rolesanywhere:eu-central-1:${aws:SourceAccount}:trust-anchor/*"
                    }
                },
            )
        ),
        {"source-arn-any"},
    ),
    (
        "all trust anchors but one",
        policy(allow(NAMED, {"ArnNotEquals": {"aws:SourceArn": ANCHOR.replace("aa", "bb")}})),
        {"negated"},
    ),
    (
        "the trust anchor if it exists",
        policy(allow(NAMED, {"ArnEqualsIfExists": {"aws:SourceArn": ANCHOR}})),
        {"needless"},
    ),
    # Other principals.
    *(
        (f"another account: {name}", policy(allow(PINNED, NAMED), {**other, "Principal": {"AWS": principal}}), expected)
        for other in ({"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"]},)
        for name, principal, expected in (
            ("its root", "arn:aws:iam::999999999999:root", {"account-unnamed"}),
            ("its number", "999999999999", {"account-unnamed"}),
            ("beside a role", ["arn:aws:iam::999999999999:role/web", "999999999999"], {"account-unnamed"}),
            ("a role", "arn:aws:iam::999999999999:role/web", set()),
            ("the role's own", "arn:aws:iam::123456789012:root", set()),
        )
    ),
    *(
        (
            f"another account with {operator} {key} {value}",
            policy(
                allow(PINNED, NAMED), allow({operator: {key: value}}, Principal={"AWS": "999999999999"}, Action=ASSUME)
            ),
            expected,
        )
        for operator, key, value, expected in (
            ("StringEquals", "sts:ExternalId", "a1b2", set()),
            ("StringLike", "aws:PrincipalArn", "arn:aws:iam::999999999999:role/web-*", set()),
            ("StringLike", "sts:ExternalId", "*", {"account-unnamed"}),
            ("StringNotEquals", "sts:ExternalId", "a1b2", {"account-unnamed"}),
            ("StringEqualsIfExists", "sts:ExternalId", "a1b2", {"account-unnamed"}),
            ("Bool", "aws:MultiFactorAuthPresent", "true", {"account-unnamed"}),
        )
    ),
    *(
        (
            f"{provider} with {condition}",
            policy(
                allow(PINNED, NAMED),
                allow(
                    condition,
                    Principal={"Federated": f"arn:aws:iam::123456789012:{provider}"},
                    Action="sts:AssumeRoleWithSAML" if "saml" in provider else "sts:AssumeRoleWithWebIdentity",
                ),
            ),
            expected,
        )
        for provider, condition, expected in (
            (GITHUB, {}, {"provider-unnamed"}),
            (GITHUB, {"StringEquals": {f"{GITHUB[14:]}:aud": "sts.amazonaws.com"}}, {"provider-unnamed"}),
            (GITHUB, {"StringLike": {f"{GITHUB[14:]}:sub": "repo:*"}}, {"provider-unnamed"}),
            (GITHUB, {"StringLike": {f"{GITHUB[14:]}:sub": ["repo:a/b:*", "*"]}}, {"provider-unnamed"}),
            (GITHUB, {"StringLike": {f"{GITHUB[14:]}:sub": "repo:a/b:*"}}, set()),
            ("oidc-provider/oidc.eks.x/id/A1", {}, {"provider-unnamed"}),
            (
                "oidc-provider/oidc.eks.x/id/A1",
                {"StringEquals": {"oidc.eks.x/id/A1:sub": "system:serviceaccount:a:b"}},
                set(),
            ),
            (
                "oidc-provider/oidc.eks.x/id/A1",
                {"StringLike": {"oidc.eks.x/id/A1:sub": "system:serviceaccount:*"}},
                {"provider-unnamed"},
            ),
            ("saml-provider/corp", {}, {"provider-unnamed"}),
            ("saml-provider/corp", {"StringEquals": {"SAML:aud": "https://signin.aws.amazon.com/saml"}}, set()),
        )
    ),
    # Domains: a pattern names an owner by the label before the suffix.
    *(
        (f"{tag} like {value}", policy(allow(PINNED, {"StringLike": {f"aws:PrincipalTag/{tag}": value}})), expected)
        for expected, tag, values in (
            (set(), "x509SAN/DNS", "*.example.com *.example.co.uk *-web.example.com *.ibm.de web-?.example.com"),
            (
                set(),
                "x509SAN/URI",
                "spiffe://example.org/* https://*.example.com/x https://example.org:443/* urn:a:web-*",
            ),
            (set(), "x509Subject/E", "*@example.com *@*.example.com *@corp"),
            (set(), "x509Subject/CN", "*.example.com *-01 *bamboo* bamboo-* CN-*"),
            ({"any-value"}, "x509SAN/DNS", "*.com *.local *.internal *.co.uk *.com.au ?.com *.com* *web*"),
            (
                {"any-value"},
                "x509SAN/URI",
                "spiffe://* https://* https://*.com *web *://example.org/x urn:uuid:* spiffe:*",
            ),
            ({"any-value"}, "x509Subject/E", "*@*.com alice@* alice@*.com"),
            ({"any-value"}, "x509Subject/CN", "*.com *.corp *@*.com"),
            ({"suffix-unbounded"}, "x509SAN/DNS", "*example.com *example.co.uk"),
            ({"suffix-unbounded"}, "x509Subject/E", "*example.com *@*example.com"),
            ({"suffix-unbounded"}, "x509Subject/CN", "*com *example.com"),
            ({"pattern-wide"}, "x509SAN/DNS", "host?.corp web.* web-* web-*.corp example.*.com *.example.*"),
            ({"pattern-wide"}, "x509SAN/URI", "spiffe://example.org* https://web.*/"),
            ({"pattern-wide"}, "x509Subject/E", "alice* *@example.*"),
            ({"pattern-wide"}, "x509Subject/CN", "host?.corp web.*"),
        )
        for value in values.split()
    ),
    ("an empty CN", policy(allow(PINNED, {"StringEquals": {CN: ""}})), {"value-empty"}),
    ("a CN and an empty one", policy(allow(PINNED, {"StringEquals": {CN: ["web", ""]}})), {"value-empty"}),
    ("an empty CN without a trust anchor", policy(allow({"StringEquals": {CN: ""}})), {"value-empty"}),
    (
        "a needless ForAllValues on the trust anchor",
        policy(allow(NAMED, {"ForAllValues:ArnEquals": {"aws:SourceArn": ANCHOR}})),
        {"needless"},
    ),
    ("ForAllValues", policy(allow(PINNED, {"ForAllValues:StringEquals": {CN: "bamboo-01"}})), {"for-all-values"}),
    (
        "ForAllValues beside another name",
        policy(allow(PINNED, NAMED, {"ForAllValues:StringLike": {OU: "dev*"}})),
        set(),
    ),
    ("IfExists", policy(allow(PINNED, {"StringEqualsIfExists": {CN: "bamboo-01"}})), {"if-exists"}),
    (
        "IfExists beside another name",
        policy(allow(PINNED, NAMED, {"StringEqualsIfExists": {OU: "devops"}})),
        set(),
    ),
    (
        "two optional names",
        policy(allow(PINNED, {"StringEqualsIfExists": {CN: "a"}, "StringNotEquals": {OU: "b"}})),
        {"if-exists", "negated"},
    ),
    ("a negated operator", policy(allow(PINNED, {"StringNotEquals": {OU: "ops"}})), {"negated"}),
    ("a negated pattern", policy(allow(PINNED, {"StringNotLike": {CN: ["web-*", "db-*"]}})), {"negated"}),
    (
        "IfExists for one action, and a name for the others",
        policy(allow(PINNED, {"StringEqualsIfExists": {OU: "a"}}, Action=ASSUME), allow(PINNED, NAMED, Action=OTHERS)),
        set(),
    ),
    (
        "IfExists whose missing name a Deny keeps out",
        policy(allow(PINNED, {"StringEqualsIfExists": {OU: "a"}}), deny({"Null": {OU: "true"}})),
        set(),
    ),
    (
        "a trust anchor with IfExists for one action only",
        policy(
            allow(NAMED, {"ArnEqualsIfExists": {"aws:SourceArn": ANCHOR}}, Action=ASSUME), allow(PINNED, Action=OTHERS)
        ),
        {"needless"},
    ),
    *(
        (
            f"only names that a CA may give to all: {names}",
            policy(allow(PINNED, {"StringEquals": names})),
            {"group-only"},
        )
        for names in ({ORG: "Example"}, {ORG: "Example", COUNTRY: "DE"}, {ORG: "Example", ISSUER: "Example CA"})
    ),
    (
        "only an organisation, by a Deny",
        policy(allow(PINNED), deny({"StringNotEquals": {ORG: "Example"}})),
        {"group-only"},
    ),
    (
        "an organisation beside any CN",
        policy(allow(PINNED, {"StringEquals": {ORG: "Example"}, "StringLike": {CN: "*"}})),
        {"group-only"},
    ),
    ("an organisation beside a CN", policy(allow(PINNED, NAMED, {"StringEquals": {ORG: "Example"}})), set()),
    ("any CN", policy(allow(PINNED, {"StringLike": {CN: "*"}})), {"any-value"}),
    ("any CN among others", policy(allow(PINNED, {"StringLike": {CN: ["bamboo-*", "?*"]}})), {"any-value"}),
    *(
        (f"nearly any CN: {value}", policy(allow(PINNED, {"StringLike": {CN: value}})), {"any-value"})
        for value in ("????", "??????*", "*-*", "*.*", "*a*")
    ),
    (
        "nearly any source identity",
        policy(allow(PINNED, {"StringLike": {"sts:SourceIdentity": ["CN=??????*", "ID=????????*"]}})),
        {"any-value", "key-by-action"},
    ),
    *(
        (f"a part of the trust anchor's UUID: {value}", policy(allow(anchor(id=value), NAMED)), {"source-arn-any"})
        for value in ("0*", "0e5a7c1e-*", "0???????-????-????-????-????????????")
    ),
    (
        "a part of the trust anchor as text",
        policy(allow(NAMED, {"StringLike": {"aws:SourceArn": "*:trust-anchor/0*"}})),
        {"source-arn-any"},
    ),
    ("many trust anchors", policy(allow({"ArnEquals": {"aws:SourceArn": [ANCHOR, *MANY_ANCHORS]}}, NAMED)), set()),
    (
        "many trust anchors and a part of another's UUID",
        policy(allow({"ArnLike": {"aws:SourceArn": [ANCHOR, *MANY_ANCHORS, MANY_ANCHORS[7][:-9] + "*"]}}, NAMED)),
        {"source-arn-any"},
    ),
    ("a trust anchor and a wildcard after it", policy(allow(anchor(id=f"{UUID}*"), NAMED)), set()),
    (
        "a negated operator whose variable is malformed",
        policy(allow(PINNED, {"StringNotEquals": {CN: "$(x)"}})),
        {"tag-none", "variable-malformed"},
    ),
    ("every service", policy(allow(PINNED, Principal={"Service": "*"})), {"tag-none", "not-judged"}),
    ("a CN is there", policy(allow(PINNED, {"Null": {CN: "false"}})), {"any-value"}),
    ("a CN is not there", policy(allow(PINNED, {"Null": {CN: "true"}})), {"negated"}),
    (
        "a CN that the session name repeats",
        policy(allow(PINNED, {"StringEquals": {CN: "${sts:RoleSessionName}"}})),
        {"any-value", "key-by-action"},
    ),
    (
        "the name of a tag",
        policy(allow(PINNED, {"ForAnyValue:StringEquals": {"aws:TagKeys": "x509Subject/CN"}})),
        {"any-value", "key-by-action"},
    ),
    # Open ones that name something.
    ("the CA alone", policy(allow(PINNED, {"StringEquals": {ISSUER: "Example CA"}})), {"issuer-only"}),
    (
        "the CA and a pattern of it",
        policy(allow(PINNED, {"StringEquals": {ISSUER: "CA"}, "StringLike": {ISSUER_O: "Ex*"}})),
        {"issuer-only"},
    ),
    ("the CA and a name", policy(allow(PINNED, {"StringEquals": {ISSUER: "CA", CN: "a"}})), set()),
    (
        "any tags",
        policy(allow(PINNED, {"Null": {"aws:TagKeys": "false"}}, Action=ASSUME), allow(PINNED, Action=OTHERS)),
        {"any-value"},
    ),
    (
        "any other tag",
        policy(
            allow(PINNED, {"ForAnyValue:StringNotEquals": {"aws:TagKeys": "x509Subject/CN"}}, Action=ASSUME),
            allow(PINNED, Action=OTHERS),
        ),
        {"negated"},
    ),
    *(
        (
            f"a trust anchor that {variable} names",
            policy(allow(NAMED, {"StringEquals": {CN: "a", "aws:SourceArn": variable}})),
            {"source-arn-any"},
        )
        for variable in ("${aws:PrincipalTag/x509Subject/OU}", "${aws:PrincipalTag/x509SAN/URI}")
    ),
    (
        "a trust anchor that the session name names",
        policy(
            allow(NAMED, {"StringEquals": {CN: "a", "aws:SourceArn": "${sts:RoleSessionName}"}}, Action=ASSUME),
            allow(Action=OTHERS),
        ),
        {"source-arn-any", "source-arn-none"},
    ),
    *(
        (
            f"a trust anchor with a part that must be another text, for {len(actions)} actions",
            policy(
                allow(
                    {"ArnEquals": {"aws:SourceArn": ANCHOR.replace(UUID, f"${{{ORG}}}")}, "StringEquals": {ORG: "db7"}},
                    Action=actions,
                ),
                *([allow(PINNED, Action=OTHERS)] if actions == ASSUME else []),
            ),
            {"not-decided"},
        )
        for actions in (ASSUME, list(ACTIONS))
    ),
    (
        "a name that a variable takes from a name of the CA",
        policy(
            allow(
                PINNED,
                {
                    "StringEquals": {CN: f"${{{ISSUER}}}"},
                    "StringLike": {CN: "bamboo-01"},
                    "ForAllValues:StringEquals": {ISSUER: "bamboo-01"},
                },
            )
        ),
        set(),
    ),
    (
        "a name that must be the name of a CA",
        policy(
            allow(PINNED, {"StringEquals": {ISSUER: "Example CA"}}),
            deny({"StringNotEquals": {OU: f"${{{ISSUER}}}"}}),
        ),
        set(),
    ),
    (
        "a name that a variable compares with a name of the policy",
        policy(
            allow(PINNED, {"ForAllValues:StringEquals": {CN: f"${{{OU}}}"}}),
            deny({"StringNotLike": {CN: ["bamboo-01", "bamboo-02"]}}),
        ),
        set(),
    ),
    (
        "a trust anchor with a part that the requester names, for one action",
        policy(
            allow(NAMED, {"ArnEquals": {"aws:SourceArn": ANCHOR.replace(UUID, f"${{{ORG}}}")}}, Action=ASSUME),
            allow(PINNED, Action=OTHERS),
        ),
        set(),
    ),
    (
        "a CA with the name of the session, which strangers choose",
        policy(
            allow(
                PINNED,
                {
                    "StringEquals": {ISSUER: "${sts:RoleSessionName}"},
                    "ForAnyValue:StringLikeIfExists": {ISSUER: "web*1"},
                },
                Action=[ASSUME, OTHERS[0]],
            ),
            allow(PINNED, Action=OTHERS[1]),
        ),
        {"issuer-only", "key-by-action"},
    ),
    (
        "a trust anchor with a part that the requester names",
        policy(
            allow(NAMED, {"ArnLike": {"aws:SourceArn": f"arn:aws:rolesanywhere:*:*:trust-anchor/${{{OU}}}"}}),
        ),
        {"source-arn-any"},
    ),
    (
        "an account that the requester names",
        policy(allow({"StringEquals": {CN: "a", "aws:SourceAccount": "${aws:PrincipalTag/x509Subject/OU}"}})),
        {"source-account-only"},
    ),
    (
        "a Deny for other trust anchors than the requester names",
        policy(allow(NAMED), deny({"StringNotEquals": {"aws:SourceArn": "${aws:PrincipalTag/x509Subject/OU}"}})),
        {"source-arn-none"},
    ),
    ("a CN that follows the OU", policy(allow(PINNED, {"StringLike": {CN: f"${{{OU}}}-*"}})), {"any-value"}),
    ("a CN with a prefix and the OU", policy(allow(PINNED, {"StringEquals": {CN: f"web-${{{OU}}}"}})), set()),
    (
        "a CN that follows a named OU",
        policy(allow(PINNED, {"StringLike": {CN: f"${{{OU}}}-*"}, "StringEquals": {OU: "devops"}})),
        set(),
    ),
    (
        "a CN that is the OU and an OU that is the O",
        policy(allow(PINNED, {"StringEquals": {CN: f"${{{OU}}}", OU: "${aws:PrincipalTag/x509Subject/O}"}})),
        {"any-value"},
    ),
    (
        "a Deny that one of two names escapes",
        policy(allow(PINNED), deny({"StringNotEquals": {CN: "bamboo-01", OU: "devops"}})),
        {"deny-needs-all"},
    ),
    (
        "a Deny that one of seven names escapes",
        policy(allow(PINNED), deny({"StringNotEquals": dict.fromkeys(SEVEN, "bamboo-01")})),
        {"deny-needs-all"},
    ),
    (
        "a Deny for each of two names",
        policy(allow(PINNED), deny({"StringNotEquals": {CN: "a"}}), deny({"StringNotEquals": {OU: "b"}})),
        set(),
    ),
    (
        "a Deny for two names beside a name",
        policy(allow(PINNED, NAMED), deny({"StringNotEquals": {OU: "b", "aws:PrincipalTag/x509Subject/O": "c"}})),
        set(),
    ),
    (
        "a Deny for those of the only trust anchor",
        policy(allow(PINNED), deny({"StringNotEquals": {OU: "devops"}, "ArnEquals": {"aws:SourceArn": ANCHOR}})),
        set(),
    ),
    (
        "seven names of which two must be there",
        policy(
            allow(PINNED, {"StringNotEquals": dict.fromkeys(SEVEN, "x"), "Null": dict.fromkeys(SEVEN[:2], "false")})
        ),
        {"negated", "any-value"},
    ),
    (
        "seven names, and two of them named",
        policy(allow(PINNED, {"StringLike": {SEVEN[0]: "web-*"}, "StringNotEquals": dict.fromkeys(SEVEN, "web-1")})),
        set(),
    ),
    ("two names for two machines", policy(allow(PINNED, NAMED), allow(PINNED, {"StringEquals": {OU: "b"}})), set()),
    ("every ARN", policy(allow(NAMED, {"ArnLike": {"aws:SourceArn": "*"}})), {"source-arn-any"}),
    (
        "every ARN beside a pattern",
        policy(allow(NAMED, {"ArnLike": {"aws:SourceArn": ["arn:aws:rolesanywhere:*:*:*", "*"]}})),
        {"source-arn-any"},
    ),
    (
        "an open value beside one that can't be read",
        policy(allow(NAMED, {"ArnLike": {"aws:SourceArn": ["arn:aws:rolesanywhere:*:*:*", "anchor"]}})),
        {"source-arn-any", "value-wrong"},
    ),
    (
        "any CN beside a malformed variable",
        policy(allow(PINNED, {"StringLike": {CN: ["*", "$(aws:x}"]}})),
        {"any-value", "variable-malformed"},
    ),
    (
        "a CN beside a malformed variable",
        policy(allow(PINNED, {"StringLike": {CN: ["web-*", "$(aws:x}"]}})),
        {"variable-malformed"},
    ),
    # Shut ones, and some that are not.
    (
        "a name for AssumeRole and another for the rest",
        policy(allow(PINNED, {"StringEquals": {CN: "a"}}, Action=ASSUME), allow(PINNED, NAMED, Action=OTHERS)),
        {"shut"},
    ),
    (
        "a Deny for the only name",
        policy(allow(PINNED, NAMED), deny(NAMED)),
        {"shut"},
    ),
    (
        "two patterns that fit together",
        policy(
            allow(PINNED, {"StringLike": {CN: "web-*"}, "StringEquals": {OU: "b"}}),
            deny({"StringNotLike": {CN: "*-eu"}}),
        ),
        set(),
    ),
    (
        "two patterns that exclude each other",
        policy(allow(PINNED, {"StringLike": {CN: "web-*"}}), deny({"StringNotLike": {CN: "db-*"}})),
        {"not-decided"},
    ),
    (
        "more names than can be tried",
        policy(
            allow(PINNED, {"StringLike": {key: [f"n{i}-*" for i in range(9)] for key in SEVEN}}),
            deny({"StringLike": dict.fromkeys(SEVEN, "n*")}),
        ),
        {"not-decided"},
    ),
    ("everyone", policy(allow(PINNED, NAMED, Principal="*")), {"principal-everyone"}),
    ("everyone of AWS", policy(allow(PINNED, NAMED, Principal={"AWS": "*", **SERVICE})), {"principal-everyone"}),
    ("a second statement is open", policy(allow(PINNED, NAMED), allow(PINNED)), {"tag-none"}),
    ("a Deny for one name only", policy(allow(PINNED), deny({"StringEquals": {CN: "evil"}})), {"tag-none"}),
    (
        "a Deny that needs two things",
        policy(
            allow(PINNED),
            deny({"StringNotEquals": {OU: "devops"}, "ArnEquals": {"aws:SourceArn": ANCHOR.replace("aa", "bb")}}),
        ),
        {"tag-none"},
    ),
    # Wrong ones.
    (
        "TagSessions",
        policy(allow(PINNED, NAMED, Action=["sts:AssumeRole", "sts:TagSessions", "sts:SetSourceIdentity"])),
        {"action-unknown"},
    ),
    (
        "an action without its service",
        policy(allow(PINNED, NAMED, Action=["AssumeRole", *ACTIONS[1:]])),
        {"action-unknown"},
    ),
    ("a foreign action", policy(allow(PINNED, NAMED, Action=[*ACTIONS, "s3:GetObject"])), {"action-unknown"}),
    ("AssumeRole only", policy(allow(PINNED, NAMED, Action="sts:AssumeRole")), {"action-missing"}),
    ("no TagSession", policy(allow(PINNED, NAMED, Action=[ACTIONS[0], ACTIONS[2]])), {"action-missing"}),
    (
        "TagSession by another service",
        policy(
            allow(PINNED, NAMED, Action=[ACTIONS[0], ACTIONS[2]]),
            allow(Principal={"Service": "ec2.amazonaws.com"}, Action=ACTIONS[1]),
        ),
        {"action-missing"},
    ),
    (
        "TagSessions and no condition",
        policy(allow(Action=["sts:AssumeRole", "sts:TagSessions", "sts:SetSourceIdentity"])),
        {"action-unknown", "condition-none"},
    ),
    ("no .com", policy(allow(PINNED, NAMED, Principal={"Service": "rolesanywhere.amazonaws"})), {"principal-wrong"}),
    ("no domain", policy(allow(PINNED, NAMED, Principal={"Service": "rolesanywhere"})), {"principal-wrong"}),
    (
        "the domain of China",
        policy(allow(PINNED, NAMED, Principal={"Service": "rolesanywhere.amazonaws.com.cn"})),
        {"principal-wrong"},
    ),
    (
        "a hyphen",
        policy(allow(PINNED, Principal={"Service": "roles-anywhere.amazonaws.com"})),
        {"principal-wrong", "tag-none"},
    ),
    ("STS", policy(allow(PINNED, NAMED, Principal={"Service": "sts.amazonaws.com"})), {"principal-wrong"}),
    (
        "EC2 only",
        policy(allow(Principal={"Service": "ec2.amazonaws.com"}, Action="sts:AssumeRole")),
        {"principal-wrong"},
    ),
    (
        "a service as AWS",
        policy(allow(PINNED, NAMED, Principal={"AWS": "rolesanywhere.amazonaws.com"})),
        {"principal-wrong"},
    ),
    (
        "a service without its kind",
        policy(allow(PINNED, NAMED, Principal="rolesanywhere.amazonaws.com")),
        {"principal-wrong"},
    ),
    (
        "a parenthesis",
        policy(
            allow(
                PINNED, NAMED, {"StringEquals": {CN: "a", "sts:RoleSessionName": "$(aws:PrincipalTag/x509Subject/CN}"}}
            )
        ),
        {"variable-malformed"},
    ),
    ("an open brace", policy(allow(PINNED, {"StringEquals": {CN: "${sts:RoleSessionName"}})), {"variable-malformed"}),
    (
        "no dollar sign",
        policy(allow(PINNED, {"StringEquals": {CN: "{aws:PrincipalTag/x509Subject/OU}"}})),
        {"variable-malformed"},
    ),
    (
        "variables without a version",
        {
            "Statement": [
                allow(
                    PINNED,
                    NAMED,
                    {"StringEquals": {CN: "a", "sts:RoleSessionName": "${aws:PrincipalTag/x509Subject/CN}"}},
                )
            ]
        },
        {"variable-version", "key-by-action"},
    ),
    ("an asterisk in StringEquals", policy(allow(PINNED, {"StringEquals": {CN: "bamboo-*"}})), {"wildcard-literal"}),
    (
        "an asterisk in an ARN as text",
        policy(
            allow(
                NAMED,
                {"StringEquals": {CN: "a", "aws:SourceArn": "arn:aws:rolesanywhere:*:123456789012:trust-anchor/*"}},
            )
        ),
        {"wildcard-literal", "source-arn-other"},
    ),
    (
        "a tag that is not from a certificate",
        policy(allow(PINNED, {"StringEquals": {"aws:PrincipalTag/Team": "a"}})),
        {"tag-impossible"},
    ),
    (
        "a tag without its field",
        policy(allow(PINNED, {"StringEquals": {"aws:PrincipalTag/CN": "a"}})),
        {"tag-impossible"},
    ),
    (
        "a long name",
        policy(allow(PINNED, {"StringEquals": {"aws:PrincipalTag/x509Subject/commonName": "a"}})),
        {"tag-impossible"},
    ),
    (
        "an IP address as SAN",
        policy(allow(PINNED, {"StringEquals": {"aws:PrincipalTag/x509SAN/IP": "10.0.0.1"}})),
        {"tag-impossible"},
    ),
    ("an ampersand", policy(allow(PINNED, {"StringEquals": {CN: "R&D"}})), {"value-impossible"}),
    ("a long value", policy(allow(PINNED, {"StringEquals": {CN: "a" * 257}})), {"value-impossible"}),
    (
        "a source identity without CN=",
        policy(allow(PINNED, {"StringEquals": {"sts:SourceIdentity": "bamboo-01"}})),
        {"source-identity-prefix", "key-by-action"},
    ),
    (
        "a profile as source",
        policy(allow(NAMED, {"ArnEquals": {"aws:SourceArn": ANCHOR.replace("trust-anchor", "profile")}})),
        {"source-arn-kind"},
    ),
    (
        "an alias as source",
        policy(allow(NAMED, {"ArnEquals": {"aws:SourceArn": ANCHOR.replace(UUID, "my-anchor")}})),
        {"source-arn-kind"},
    ),
    ("another region", policy(allow(NAMED, anchor(region="us-east-1"))), {"source-arn-other"}),
    ("another account", policy(allow(NAMED, anchor(account="210987654321"))), {"source-arn-other"}),
    ("another trust anchor", policy(allow(NAMED, anchor(id=UUID.replace("aa", "bb")))), {"source-arn-other"}),
    (
        "another account by number",
        policy(allow(PINNED, {"StringEquals": {"aws:SourceAccount": "210987654321", CN: "a"}})),
        {"source-arn-other"},
    ),
    ("text that is not an ARN", policy(allow(NAMED, {"ArnEquals": {"aws:SourceArn": UUID}})), {"value-wrong"}),
    ("a misspelt operator", policy(allow(PINNED, {"StringEqual": {CN: "a"}})), {"operator-unknown"}),
    ("an unknown operator", policy(allow(PINNED, {"Regex": {CN: "a"}})), {"operator-unknown"}),
    ("a key without its prefix", policy(allow(PINNED, {"StringEquals": {"x509Subject/CN": "a"}})), {"key-unknown"}),
    ("a misspelt key", policy(allow(NAMED, {"ArnEquals": {"aws:SourceARNs": ANCHOR}})), {"key-unknown"}),
    (
        "a key of other requests",
        policy(allow(PINNED, NAMED, {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})),
        {"operator-unknown", "key-unknown"},
    ),
    ("MFA", policy(allow(PINNED, NAMED, {"Bool": {"aws:MultiFactorAuthPresent": "true"}})), {"key-unknown"}),
    ("a resource", policy(allow(PINNED, NAMED, Resource="*")), {"element-unknown"}),
    ("a Deny for all", policy(allow(PINNED, NAMED), deny()), {"denied-always"}),
    (
        "tags in no operator's sense",
        policy(allow(PINNED, NAMED, {"StringEquals": {CN: "a", "aws:TagKeys": "b"}})),
        {"not-judged", "key-by-action"},
    ),
    ("not JSON", "{", {"not-a-policy"}),
    ("a list", "[]", {"not-a-policy"}),
    (
        "a member twice",
        json.dumps(policy(allow(PINNED, NAMED))).replace("{", '{"Version": "2012-10-17", ', 1),
        {"not-judged"},
    ),
    ("an unknown version", policy(allow(PINNED, NAMED), Version="2026-01-01"), {"not-judged"}),
    ("an effect in lower case", policy(allow(PINNED, NAMED, Effect="allow")), {"not-a-policy"}),
    ("no statement", policy(), {"principal-wrong"}),
    ("no principal", policy({"Effect": "Allow", "Action": list(ACTIONS)}), {"not-a-policy", "principal-wrong"}),
    (
        "all but one principal",
        policy({"Effect": "Allow", "NotPrincipal": SERVICE, "Action": list(ACTIONS)}),
        {"element-unknown", "principal-wrong"},
    ),
    ("ten thousand names", policy(allow(PINNED, {"StringEquals": {CN: ["bamboo-01"] * 10_000}})), {"policy-too-large"}),
    ("a dollar sign", policy(allow(PINNED, {"StringEquals": {CN: "a${$}b"}})), {"value-impossible"}),
    ("a literal asterisk", policy(allow(PINNED, {"StringLike": {CN: "a${*}b"}})), {"value-impossible"}),
    (
        "a variable with a default",
        policy(allow(PINNED, {"StringEquals": {CN: "a", OU: "${aws:PrincipalTag/x509Issuer/OU, 'devops'}"}})),
        set(),
    ),
    ("all actions but one", policy({**allow(PINNED, NAMED), "NotAction": "sts:AssumeRoleWithSAML"}), {"not-judged"}),
    (
        "all actions but one, for everyone",
        policy({"Effect": "Allow", "Principal": SERVICE, "NotAction": "sts:AssumeRoleWithSAML"}),
        {"not-judged", "condition-none"},
    ),
    (
        "any trust anchor of an account and a region, in two conditions",
        policy(
            allow(
                NAMED,
                {
                    "ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:eu-central-1:*:trust-anchor/*"},
                    "StringEquals": {CN: "a", "aws:SourceAccount": "123456789012"},
                },
            )
        ),
        {"source-arn-any"},
    ),
    (
        "any trust anchor of some regions",
        policy(allow(NAMED, {"StringLike": {"aws:SourceArn": "arn:aws:rolesanywhere:eu-central-?:123456789012:*"}})),
        {"source-arn-any"},
    ),
    (
        "any trust anchor of the account as text",
        policy(allow(NAMED, {"StringLike": {"aws:SourceArn": "*:123456789012:*"}})),
        {"source-arn-any"},
    ),
    (
        "two mistakes of one kind",
        policy(allow(PINNED, {"StringLike": {CN: "*"}, "StringNotEquals": {OU: "a"}})),
        {"any-value", "negated"},
    ),
]


@pytest.mark.parametrize(("document", "expected"), [each[1:] for each in TABLE], ids=[each[0] for each in TABLE])
def test_review_names_all_mistakes_and_no_others(document: Any, expected: set[str]) -> None:
    assert ids(document) == expected


def test_table_has_every_mistake() -> None:
    assert {name for _, _, expected in TABLE for name in expected} == {each.id for each in mistakes_of(policies)}


@pytest.mark.parametrize("document", [each[1] for each in TABLE if not each[2]])
def test_policy_without_findings_is_accepted_by_the_evaluator(document: Any) -> None:
    TrustPolicy(document)


def test_finding_names_the_statement_and_says_what_to_write() -> None:
    misspelt = allow(PINNED, NAMED, Sid="Rest", Action=[*ACTIONS[:2], "sts:SetSourceId"])
    (found,) = review(policy(allow(PINNED, NAMED), misspelt))
    assert found.level == "wrong"
    assert found.found == "statement 2 (Rest) has the action 'sts:SetSourceId'"
    assert found.fix == "Write sts:SetSourceIdentity"


def test_finding_says_that_the_source_arn_is_of_another_region() -> None:
    (found,) = review(policy(allow(NAMED, anchor(region="us-east-1"))), trust_anchor=ANCHOR)
    assert found.found.endswith("(another region)")


@pytest.mark.parametrize("denied", [{"StringNotEquals": {CN: "x"}}, NAMED])
def test_finding_says_which_deny_keeps_everyone_out(denied: dict[str, Any]) -> None:
    document = policy(allow(PINNED, NAMED), deny({"StringEquals": {OU: "old"}}), deny(denied))
    [found] = review(document, trust_anchor=ANCHOR)
    assert found.found == "no certificate may do all three actions, because of statement 3"
    assert found.fix == "Remove statement 3, or have it deny only what the Allow statements should not let in"


WILD = [f"arn:aws:rolesanywhere:r{i}:*:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9a?" for i in range(25)]
NUMBERS = [f"{100000000000 + i}" for i in range(25)]


@pytest.mark.slow
def test_combinations_of_regions_and_accounts_that_are_not_tried_are_reported() -> None:
    keep = deny({"ArnNotEquals": {"aws:SourceArn": [ANCHOR]}})
    document = policy(
        allow(NAMED, {"ArnLike": {"aws:SourceArn": WILD}, "StringEquals": {CN: "a", "aws:SourceAccount": NUMBERS}}),
        keep,
    )
    found = [each.found for each in review(document)]
    assert "there are more combinations of regions and accounts than hwsigner tries" in found


def test_source_arn_of_any_trust_anchor_is_right_when_none_is_given() -> None:
    assert ids(policy(allow(NAMED, anchor(region="us-east-1"))), trust_anchor="") == set()


ANY_ACCOUNT = {"ArnLike": {"aws:SourceArn": ANCHOR.replace("123456789012", "${aws:SourceAccount}")}}
HAS_CN = {"Null": {CN: "false"}}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (policy(allow(ANY_ACCOUNT, {"StringLike": {CN: "*"}})), "any-value"),
        (policy(allow(PINNED, {"StringNotLike": {CN: ["q*", "7*"]}}, HAS_CN)), "negated"),
        (policy(allow(PINNED, {"StringNotLike": {CN: "?????"}}, HAS_CN)), "negated"),
        (policy(allow(PINNED, HAS_CN), deny({"StringLike": {CN: ["q*", "7*", "0*", "z*"]}})), "any-value"),
        (
            policy(allow(PINNED, {"StringLike": {CN: "*.*"}, "StringEquals": {CN: "${aws:PrincipalTag/x509SAN/DNS}"}})),
            "any-value",
        ),
        (
            policy(
                allow(
                    PINNED,
                    {
                        "StringLike": {CN: "*-*"},
                        "ForAnyValue:StringLike": {CN: "*a*"},
                        "StringLikeIfExists": {CN: "?????*"},
                        "ForAllValues:StringLike": {CN: "*.*"},
                    },
                )
            ),
            "not-decided",
        ),
        (
            policy(
                allow(PINNED, {"ForAnyValue:StringLike": {"aws:TagKeys": "x509SAN/U*"}}, Action=ACTIONS[:2]),
                allow(PINNED, Action=ACTIONS[2]),
            ),
            "not-decided",
        ),
    ],
)
def test_statement_that_lets_strangers_in_is_named_beside_one_that_names_a_machine(
    document: dict[str, Any], expected: str
) -> None:
    document["Statement"].append(allow(PINNED, NAMED))
    assert expected in ids(json.loads(json.dumps(document)))


def test_statements_of_several_patterns_are_right_although_not_all_of_them_fit_together() -> None:
    patterns = [{"StringLike": {CN: f"{name}-*"}} for name in ("web", "db")]
    parts = [allow(PINNED, each, Action=actions) for each in patterns for actions in (ASSUME, OTHERS)]
    assert ids(policy(*parts)) == set()


@pytest.mark.parametrize("trust_anchor", [ANCHOR, ""])
def test_account_of_the_trust_anchor_may_be_a_variable(trust_anchor: str) -> None:
    assert ids(policy(allow(ANY_ACCOUNT, NAMED)), trust_anchor) == set()


def test_open_findings_come_first() -> None:
    levels = [each.level for each in review(policy(allow(Action=["sts:AssumeRole", "sts:TagSession"])))]
    assert levels == ["open", "wrong"]


_KEYS = [
    CN,
    OU,
    "aws:RequestTag/x509Subject/CN",
    "sts:SourceIdentity",
    "sts:RoleSessionName",
    "aws:TagKeys",
    "aws:SourceArn",
    "aws:SourceAccount",
    "aws:CurrentTime",
    "aws:PrincipalIsAWSService",
]
_VALUES = [
    "bamboo-01",
    "*",
    "?*",
    "b*",
    "true",
    "false",
    ANCHOR,
    "arn:aws:rolesanywhere:*:*:*",
    "123456789012",
    "2026-01-01",
    "CN=bamboo-01",
    "${sts:RoleSessionName}",
    "${aws:PrincipalTag/x509Subject/CN}",
    "x509Subject/CN",
]
_operators = st.builds(
    lambda quantifier, base, suffix: quantifier + base + suffix,
    st.sampled_from(["", "", "", "ForAllValues:", "ForAnyValue:"]),
    st.sampled_from(sorted(OPERATORS)),
    st.sampled_from(["", "", "IfExists"]),
)
_values = st.lists(st.sampled_from(_VALUES), min_size=1, max_size=2)
_condition = st.dictionaries(
    _operators, st.dictionaries(st.sampled_from(_KEYS), _values, min_size=1, max_size=2), max_size=3
)
_statement = st.builds(
    lambda effect, condition, actions, principal: {
        "Effect": effect,
        "Principal": principal,
        "Action": actions,
        "Condition": condition,
    },
    st.sampled_from(["Allow", "Allow", "Allow", "Deny"]),
    _condition,
    st.sampled_from([list(ACTIONS), "sts:*", [ACTIONS[0]], list(ACTIONS[1:])]),
    st.sampled_from([SERVICE, "*"]),
)
_policies = st.lists(_statement, min_size=1, max_size=3).map(lambda statements: policy(*statements))


@given(
    _policies,
    st.dictionaries(
        st.sampled_from(["x509Subject/CN", "x509Subject/OU", "x509Subject/L"]), st.just("zurich"), max_size=3
    ),
    st.sampled_from(["bamboo-01", "zurich"]),
)
def test_policy_that_lets_an_unnamed_certificate_in_is_open(document: Any, tags: dict[str, str], name: str) -> None:
    context = request_context(
        trust_anchor=ANCHOR,
        tags=tags,
        session_name=name,
        source_identity="CN=zurich",
        now=datetime(2026, 1, 31, tzinfo=UTC),
    )
    try:
        if TrustPolicy(document).refusal(context):
            return
    except ConfigError:
        return
    assert "open" in {each.level for each in review(document)}


@given(_statement, st.sampled_from(["bamboo-01", "zurich", "*"]), st.sampled_from(["CN=bamboo-01", "ID=1f"]))
def test_statement_that_lets_a_certificate_in_is_not_called_impossible(
    statement: dict[str, Any], name: str, identity: str
) -> None:
    document = policy(statement)
    context = request_context(
        trust_anchor=ANCHOR, tags={"x509Subject/CN": name}, session_name=name, source_identity=identity, now=NOW
    )
    try:
        if TrustPolicy(document).refusal(context):
            return
    except ConfigError:
        return
    found = {each.id for each in review(document, trust_anchor=ANCHOR, now=NOW)}
    assert not found & {"contradiction", "date-passed", "denied-always", "source-arn-other", "action-missing"}


_PATTERNS = [
    *(
        ANCHOR,
        "*",
        "arn:aws:rolesanywhere:*:*:trust-anchor/*",
        "arn:aws:rolesanywhere:eu-*:123456789012:trust-anchor/*",
    ),
    *("123456789012", "1234*", "arn:aws:rolesanywhere:eu-central-1:${aws:SourceAccount}:*", "*:123456789012:*"),
]
_about_anchors = st.dictionaries(
    _operators,
    st.dictionaries(
        st.sampled_from(["aws:SourceArn", "aws:SourceAccount"]),
        st.lists(st.sampled_from(_PATTERNS), min_size=1, max_size=2),
        min_size=1,
    ),
    min_size=1,
    max_size=3,
)


@given(
    st.lists(st.builds(lambda conditions: allow(conditions, NAMED), _about_anchors), min_size=1, max_size=2),
    st.lists(st.builds(deny, _about_anchors), max_size=1),
    st.sampled_from(["123456789012", "210987654321"]),
    st.sampled_from(["eu-central-1", "eu-west-3"]),
)
def test_policy_that_lets_an_unnamed_trust_anchor_in_is_open(
    allowing: list[Any], denying: list[Any], account: str, region: str
) -> None:
    document = policy(*allowing, *denying)
    stranger = f"arn:aws:rolesanywhere:{region}:{account}:trust-anchor/{UUID.replace('aa', 'bb')}"
    context = request_context(
        trust_anchor=stranger,
        tags={"x509Subject/CN": "bamboo-01"},
        session_name="1f",
        source_identity="CN=bamboo-01",
        now=datetime(2026, 1, 31, tzinfo=UTC),
    )
    try:
        if TrustPolicy(document).refusal(context):
            return
    except ConfigError:
        return
    assert "open" in {each.level for each in review(document)}


_tag_values = st.text(st.sampled_from("aZ9 _:/=+-äλ*?"), min_size=1, max_size=12).filter(
    lambda text: not set("*?").intersection(text) or (sum(map(str.isalnum, text)) > 1 and text[0] not in "*?")
)


@given(
    st.dictionaries(
        st.sampled_from(["x509Subject/CN", "x509Issuer/OU", "x509SAN/URI"]),
        st.lists(_tag_values, min_size=1, max_size=3),
        min_size=1,
    )
)
def test_policy_that_hwsigner_writes_has_no_findings_unless_it_compares_only_the_ca(tags: dict[str, list[str]]) -> None:
    prefix = "spiffe://example.org/"  # A pattern for a URI names an authority.
    tags = {tag: [f"{prefix * tag.endswith('URI')}{value}" for value in values] for tag, values in tags.items()}
    found = [each.id for each in review(write_trust_policy(tags, trust_anchor=ANCHOR), trust_anchor=ANCHOR)]
    assert found == (["issuer-only"] if set(tags) == {"x509Issuer/OU"} else [])


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["*", "Allow", "sts:*", *_VALUES]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Version", "Statement", "Effect", "Principal", "Action", "Condition", "Service", "StringLike", CN]
            ),
            children,
            max_size=4,
        )
    ),
)


@given(_json | _policies)
def test_review_explains_every_document_that_the_evaluator_refuses(document: Any) -> None:
    found = review(json.dumps(document))
    try:
        TrustPolicy(json.dumps(document))
    except ConfigError:
        assert found


@given(_policies)
def test_review_says_the_same_of_a_document_and_its_json(document: Any) -> None:
    assert review(document) == review(json.dumps(document))
