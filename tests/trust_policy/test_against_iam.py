"""Generated policies and requests: hwsigner's evaluator decides as that of the tests, written from AWS's documents."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwsigner.errors import ConfigError
from hwsigner.trust_policy import ACTIONS, TrustPolicy, conditions, request_context
from trust_policy import iam

ANCHORS = [
    f"arn:aws:rolesanywhere:{region}:{account}:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9{end}"
    for region, account, end in (("eu-central-1", "123456789012", "aa"), ("us-east-1", "210987654321", "bb"))
]
TAGS = ["x509Subject/CN", "x509Subject/OU", "x509Issuer/CN", "x509SAN/URI"]
TEXTS = ["", "bamboo-01", "Bamboo-01", "devops", "a.c", "abc", "a:b"]
NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
TEXT_KEYS = [
    "aws:SourceArn",
    "aws:SourceAccount",
    "aws:PrincipalServiceName",
    "sts:RoleSessionName",
    "sts:SourceIdentity",
    "aws:OriginIdentity/Subject",
    *(f"aws:{kind}/{tag}" for kind in ("PrincipalTag", "RequestTag") for tag in TAGS),
]
DATES = ["2026-01", "2026-01-31", "2026-01-31T12:30Z", "2026-01-31T13:30:00+01:00", "2026-01-31T12:29:59.5Z", "2027-03"]
NUMBERS = ["1769862600", "1769862600.0", "1769862599.5", "1769862601", "17698626e2", "0"]
UNKNOWN_TO_HWSIGNER = {"IpAddress", "NotIpAddress"}

requests = st.builds(
    iam.Request,
    anchor=st.sampled_from(ANCHORS),
    tags=st.lists(st.sampled_from([*TEXTS, "", None, None]), min_size=len(TAGS), max_size=len(TAGS)).map(
        lambda texts: {tag: text for tag, text in zip(TAGS, texts, strict=True) if text is not None}
    ),
    session_name=st.sampled_from(["bamboo-01", "1f", "devops"]),
    source_identity=st.sampled_from(["CN=bamboo-01", "ID=1f", "CN=devops"]),
    now=st.sampled_from([NOW, NOW - timedelta(seconds=1), NOW + timedelta(days=40)]),
    origin_identity=st.sampled_from([{}, {"Subject": "bamboo-01"}]),
)
variables = st.builds(
    "${{{}{}}}".format,
    st.sampled_from(TEXT_KEYS).flatmap(lambda key: st.sampled_from([key, key.upper()])),
    st.sampled_from(["", ", 'devops'", ", ''"]),
)
versions = st.sampled_from([{"Version": "2012-10-17"}, {"Version": "2012-10-17"}, {"Version": "2008-10-17"}, {}])
pieces = st.one_of(st.sampled_from([*TEXTS, "*", "?", "-", "CN=", "${*}", "${?}", "${$}", "$"]), variables)


def mostly(text: str, draw: st.DrawFn) -> str:
    """Return a text that a policy may compare: the same, or changed somewhere, so that it may fit or just not."""
    start, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    piece = draw(pieces)
    inside = [f"{text[:start]}{each}{text[end:]}" for each in (piece, "*")]
    return draw(
        st.sampled_from(
            [text, text, *inside, f"{text[:start]}?{text[start + 1 :]}", text.swapcase(), piece, draw(variables)]
        )
    )


@st.composite
def values(draw: st.DrawFn, base: str, key: str, request: iam.Request) -> list[Any]:
    """Return values for a key and an operator without set operator and IfExists."""
    if base in ("Bool", "Null"):
        return draw(st.lists(st.sampled_from(["true", "false", True, "True"]), min_size=1, max_size=2))
    if base.startswith(("Date", "Numeric")):
        known = NUMBERS if base.startswith("Numeric") else [*DATES, "1769862600"]
        return draw(st.lists(st.sampled_from(known), min_size=1, max_size=2))
    if "IpAddress" in base:
        return ["203.0.113.0/24"]
    given = [one for action in ACTIONS for one in request.keys(action).get(key.lower(), ())]
    given += [draw(st.sampled_from(TEXTS))]
    given += ANCHORS if key == "aws:SourceArn" else []
    found = []
    for text in draw(st.lists(st.sampled_from(given), min_size=1, max_size=3)):
        parts = text.split(":", 5) if base.startswith("Arn") and text.count(":") > 4 else []
        if parts:
            part = draw(st.integers(0, 5))
            parts[part] = mostly(parts[part], draw).replace(":b", "b")
        changed = text if parts else mostly(text, draw)
        if "$" not in changed and draw(st.booleans()):
            changed = mostly(changed, draw)
        found.append(":".join(parts) if parts else changed)
    return found


def keys_of(base: str, quantifier: str) -> list[str]:
    """Return the keys that an operator may compare."""
    if base == "Bool":
        return ["aws:PrincipalIsAWSService"]
    if base.startswith("Arn"):
        return ["aws:SourceArn"]
    if base.startswith(("Date", "Numeric")):
        return ["aws:EpochTime"] if base.startswith("Numeric") else ["aws:EpochTime", "aws:CurrentTime"]
    if "IpAddress" in base:
        return ["aws:SourceIp"]
    return [*TEXT_KEYS, "aws:TagKeys"] if quantifier or base == "Null" else TEXT_KEYS


@st.composite
def condition_blocks(draw: st.DrawFn, request: iam.Request, operators: list[str]) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for base in draw(st.lists(st.sampled_from(operators), max_size=3)):
        quantifier = "" if base == "Null" else draw(st.sampled_from(["", "ForAllValues:", "ForAnyValue:"]))
        suffix = "" if base == "Null" else draw(st.sampled_from(["", "IfExists"]))
        key = draw(st.sampled_from(keys_of(base, quantifier)))
        wanted = draw(values(base, key, request))
        if base in ("ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"):
            wanted = [one for one in wanted if one.count(":") >= 5] or [ANCHORS[0]]
        spelt = draw(st.sampled_from([key, key.lower()]))
        made.setdefault(f"{quantifier}{base}{suffix}", {})
        if key.lower() not in map(str.lower, made[f"{quantifier}{base}{suffix}"]):
            made[f"{quantifier}{base}{suffix}"][spelt] = wanted[0] if len(wanted) == 1 else wanted
    return made


@st.composite
def statements(draw: st.DrawFn, request: iam.Request, operators: list[str]) -> dict[str, Any]:
    service, other = {"Service": iam.SERVICE}, {"AWS": "arn:aws:iam::123456789012:root"}
    both = {"Service": ["ec2.amazonaws.com", iam.SERVICE], **other}
    actions = st.sampled_from([*ACTIONS, "sts:*", "STS:assumerole", "sts:Assume*", "sts:TagSessio?", "sts:*Identity"])
    return {
        "Effect": draw(st.sampled_from(["Allow", "Allow", "Allow", "Deny"])),
        "Principal": draw(st.sampled_from([service, service, both, "*", {"AWS": "*"}, other])),
        "Action": draw(st.one_of(actions, st.just(list(ACTIONS)), st.lists(actions, min_size=1, max_size=3))),
        "Condition": draw(condition_blocks(request, operators)),
    }


@st.composite
def cases(draw: st.DrawFn, operators: list[str]) -> tuple[dict[str, Any], iam.Request]:
    request = draw(requests)
    made = draw(st.lists(statements(request, operators), min_size=1, max_size=3))
    return {**draw(versions), "Statement": made}, request


def decisions(policy: dict[str, Any], request: iam.Request) -> dict[str, tuple[bool, bool]]:
    """Return for each action what hwsigner decides, and what AWS's documents say."""
    context = request_context(
        trust_anchor=request.anchor,
        tags=request.tags,
        session_name=request.session_name,
        source_identity=request.source_identity,
        now=request.now,
        origin_identity=request.origin_identity,
    )
    judged = TrustPolicy(policy)
    return {action: (judged.decide(action, context).allowed, iam.allows(policy, action, request)) for action in ACTIONS}


KNOWN = [each for each in iam.OPERATORS if each not in UNKNOWN_TO_HWSIGNER]


def test_both_evaluators_have_the_same_operators_and_share_no_code() -> None:
    assert set(KNOWN) == set(conditions.OPERATORS)
    with open(iam.__file__) as file:
        imported = [each for each in ast.walk(ast.parse(file.read())) if isinstance(each, ast.Import | ast.ImportFrom)]
    assert "hwsigner" not in "".join(map(ast.unparse, imported))


@pytest.mark.slow
@settings(max_examples=400)
@given(cases(KNOWN))
def test_decisions_are_those_of_the_documents(case: tuple[dict[str, Any], iam.Request]) -> None:
    for action, (decided, documented) in decisions(*case).items():
        assert decided == documented, (action, case)


@pytest.mark.slow
@pytest.mark.parametrize("operator", KNOWN)
def test_each_operator_decides_as_documented_and_both_ways(operator: str) -> None:
    seen = set()

    @settings(max_examples=100, derandomize=True, database=None)
    @given(st.data())
    def judge(data: st.DataObject) -> None:
        request = data.draw(requests)
        block = data.draw(condition_blocks(request, [operator]).filter(bool))
        statement = {"Effect": "Allow", "Principal": "*", "Action": "sts:*", "Condition": block}
        version = data.draw(versions)
        for action, (decided, documented) in decisions({**version, "Statement": statement}, request).items():
            assert decided == documented, (action, block, request)
            seen.add(decided)

    judge()
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("version", "operator", "wanted", "allowed"),
    [
        ("2012-10-17", "StringEquals", "${aws:PrincipalTag/x509Issuer/CN}", False),  # Its value "a.c" is no pattern.
        (None, "StringNotEquals", "${aws:PrincipalTag/x509Subject/OU}", True),
        ("2012-10-17", "StringNotEquals", "${aws:PrincipalTag/x509Subject/OU}", False),
        ("2012-10-17", "StringLike", "*a*b*c*", True),
        ("2012-10-17", "StringLike", "*ab*c*b*", False),
    ],
)
def test_cases_that_chance_seldom_meets(version: str | None, operator: str, wanted: str, allowed: bool) -> None:
    tags = {"x509Subject/OU": "abc", "x509Issuer/CN": "a.c"}
    condition = {operator: {"aws:PrincipalTag/x509Subject/OU": wanted}}
    statement = {"Effect": "Allow", "Principal": "*", "Action": "sts:*", "Condition": condition}
    policy = {**({"Version": version} if version else {}), "Statement": statement}
    assert set(decisions(policy, iam.Request(ANCHORS[0], tags, "1f", "ID=1f", NOW)).values()) == {(allowed, allowed)}


def test_asterisk_takes_no_more_than_the_rest_needs() -> None:
    condition = {"StringLike": {"aws:PrincipalTag/x509Subject/OU": "a*b*c*d"}}
    policy = {"Statement": {"Effect": "Allow", "Principal": "*", "Action": "sts:*", "Condition": condition}}
    request = iam.Request(ANCHORS[0], {"x509Subject/OU": "abcbd"}, "1f", "ID=1f", NOW)
    assert set(decisions(policy, request).values()) == {(True, True)}


@pytest.mark.parametrize(
    ("changed", "allowed"),
    [
        ({"NotAction": "sts:TagSession", "Principal": "*"}, True),
        ({"NotPrincipal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:*"}, True),
        ({"NotPrincipal": {"Service": [iam.SERVICE]}, "Action": "sts:*"}, False),
        ({"Action": "sts:*", "Principal": "*", "Condition": {"IpAddress": {"aws:SourceIp": "203.0.113.0/24"}}}, False),
        ({"Action": "sts:*", "Principal": "*", "Condition": {"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}}}, True),
    ],
    ids=str,
)
def test_what_hwsigner_does_not_know_is_refused_though_iam_decides(changed: dict[str, Any], allowed: bool) -> None:
    policy = {"Statement": {"Effect": "Allow", **changed}}
    assert iam.allows(policy, "sts:AssumeRole", iam.Request(ANCHORS[0], {}, "1f", "ID=1f", NOW)) == allowed
    with pytest.raises(ConfigError):
        TrustPolicy(policy)


@given(cases(["StringEquals", "StringNotEquals"]), st.sampled_from(["aws:username", "aws:SourceVpc"]), st.data())
def test_unknown_key_never_makes_hwsigner_allow_more_than_iam(
    case: tuple[dict[str, Any], iam.Request], key: str, data: st.DataObject
) -> None:
    policy, request = case
    operator = data.draw(st.sampled_from(["StringEquals", "StringNotEquals", "StringEqualsIfExists", "Null"]))
    index = data.draw(st.integers(0, len(policy["Statement"]) - 1))
    policy["Statement"][index]["Condition"][operator] = {key: "true"}
    for decided, documented in decisions(policy, request).values():
        assert documented or not decided
