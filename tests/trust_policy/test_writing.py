"""Written trust policies let in what they were made for, and nothing else: judged by the evaluator."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hwsigner.errors import UsageError
from hwsigner.trust_policy import ACTIONS, TrustPolicy, request_context
from hwsigner.trust_policy.writing import has_wildcard, literal, size, write_trust_policy

ANCHOR = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"
OTHER = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/11111111-2222-4333-8444-555555555555"
NAMES = st.sampled_from(["x509Subject/CN", "x509Subject/OU", "x509Issuer/CN", "x509SAN/DNS", "x509SAN/Name/CN"])
# More than a tag can have: what STS refuses must not become a wildcard or a variable on the way.
TEXTS = st.text(st.sampled_from("ab*?${}'/ .ä"), max_size=6)
TAGS = st.dictionaries(NAMES, TEXTS, min_size=1)


def refusal(policy: dict[str, Any], tags: dict[str, str], trust_anchor: str = ANCHOR) -> str:
    now = datetime(2026, 1, 31, tzinfo=UTC)
    request = request_context(
        trust_anchor=trust_anchor, tags=tags, session_name="x", source_identity="CN=bamboo-01", now=now
    )
    return TrustPolicy(json.dumps(policy)).refusal(request)


def exactly(tags: dict[str, str], trust_anchor: str | None = ANCHOR) -> dict[str, Any]:
    return write_trust_policy({name: [literal(value)] for name, value in tags.items()}, trust_anchor=trust_anchor)


@given(TAGS)
def test_policy_lets_in_the_tags_that_it_was_made_from(tags: dict[str, str]) -> None:
    assert refusal(exactly(tags), {**tags, "x509Subject/O": "any"}) == ""


@given(TAGS, st.data())
def test_policy_refuses_a_tag_that_differs_or_is_missing(tags: dict[str, str], data: st.DataObject) -> None:
    name, other = data.draw(st.sampled_from(sorted(tags))), data.draw(TEXTS)
    assume(other != tags[name])
    assert f"aws:PrincipalTag/{name}" in refusal(exactly(tags), {**tags, name: other})
    assert "does not have it" in refusal(exactly(tags), {tag: value for tag, value in tags.items() if tag != name})


@given(st.lists(TEXTS, min_size=1), TEXTS)
def test_values_of_a_tag_are_alternatives(values: list[str], other: str) -> None:
    policy = write_trust_policy({"x509Subject/CN": list(map(literal, values))})
    assert all(refusal(policy, {"x509Subject/CN": value}) == "" for value in values)
    assert (refusal(policy, {"x509Subject/CN": other}) == "") == (other in values)


@given(st.text(st.sampled_from("ab*?"), min_size=1, max_size=8), st.text(st.sampled_from("ab"), max_size=8))
def test_wildcards_match_as_those_of_file_names(pattern: str, value: str) -> None:
    policy = write_trust_policy({"x509Subject/CN": [pattern]})
    assert (refusal(policy, {"x509Subject/CN": value}) == "") == fnmatchcase(value, pattern)


@given(TEXTS)
def test_literal_text_has_no_wildcard(text: str) -> None:
    assert not has_wildcard(literal(text))


def test_policy_names_the_service_three_actions_and_the_trust_anchor() -> None:
    [statement] = exactly({"x509Subject/CN": "bamboo-01", "x509Subject/OU": "devops"})["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "rolesanywhere.amazonaws.com"},
        "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
        "Condition": {
            "StringEquals": {
                "aws:PrincipalTag/x509Subject/CN": "bamboo-01",
                "aws:PrincipalTag/x509Subject/OU": "devops",
            },
            "ArnEquals": {"aws:SourceArn": ANCHOR},
        },
    }
    assert statement["Action"] == list(ACTIONS)


def test_other_trust_anchor_is_refused_only_when_one_is_named() -> None:
    tags = {"x509Subject/CN": "bamboo-01"}
    assert "ArnEquals aws:SourceArn" in refusal(exactly(tags), tags, OTHER)
    assert refusal(exactly(tags, None), tags, OTHER) == ""


def test_wildcard_is_a_string_like_beside_exact_values() -> None:
    policy = write_trust_policy({"x509Subject/CN": ["bamboo-*", "web"], "x509Subject/OU": ["devops"]})
    assert set(policy["Statement"][0]["Condition"]) == {"StringLike", "StringEquals"}
    for name in ("bamboo-01", "bamboo-", "web"):
        assert refusal(policy, {"x509Subject/CN": name, "x509Subject/OU": "devops"}) == ""
    assert "StringLike" in refusal(policy, {"x509Subject/CN": "webb", "x509Subject/OU": "devops"})


@pytest.mark.parametrize("tags", [{}, {"x509Subject/CN": []}])
def test_policy_without_a_value_is_an_error(tags: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError) as caught:
        write_trust_policy(tags)
    assert caught.value.hint


def test_size_counts_no_white_space_between_tokens() -> None:
    assert size({"Version": "2012-10-17", "Id": "a ä"}) == len(r'{"Version":"2012-10-17","Id":"a \u00e4"}')
