"""Plans, from what there is and what is wanted. Nothing is called."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from control_plane.setups import (
    ANCHOR_ARN,
    CA,
    OTHER_CA,
    PROFILE_ARN,
    ROLE_ARN,
    TAGS,
    anchor,
    complete,
    profile,
    role,
    setup,
)
from hwsigner._control_plane.plan import notes, plan
from hwsigner._control_plane.policies import with_statement
from hwsigner._control_plane.resources import Existing, choose_anchor, choose_profile
from hwsigner.errors import UsageError
from hwsigner.trust_policy.writing import size, write_trust_policy

OTHER_ARN = ANCHOR_ARN[:-1] + "9"
OTHER_PROFILE = PROFILE_ARN[:-1] + "9"
OTHER_ROLE = "arn:aws:iam::123456789012:role/other"
EC2 = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}


def operations(existing: Existing, **more: Any) -> list[str]:
    return [step.operation for step in plan(existing, setup(**more))]


def test_plan_makes_all_three_when_there_is_nothing() -> None:
    assert operations(Existing(), policies=("arn:aws:iam::aws:policy/ReadOnlyAccess",)) == [
        "create_trust_anchor",
        "create_role",
        "attach_role_policy",
        "create_profile",
    ]


def test_plan_is_empty_when_all_is_there() -> None:
    assert operations(complete()) == []


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        (replace(complete(), anchor=anchor(enabled=False)), ["enable_trust_anchor"]),
        (replace(complete(), profile=profile(ROLE_ARN, enabled=False)), ["enable_profile"]),
        (replace(complete(), profile=profile()), ["update_profile"]),
        (replace(complete(), profile=profile(ROLE_ARN, duration=7200)), ["update_role"]),
        (replace(complete(), role=role({"Version": "2012-10-17", "Statement": EC2})), ["update_assume_role_policy"]),
        (replace(complete(), role=None), ["create_role"]),
        (replace(complete(), profile=None), ["create_profile"]),
    ],
)
def test_plan_completes_what_is_missing(existing: Existing, expected: list[str]) -> None:
    assert operations(existing) == expected


def test_role_is_never_shorter_than_profile_when_duration_is_given() -> None:
    steps = {step.operation: step.parameters for step in plan(complete(), setup(duration=43200))}
    assert steps["update_role"] == {"RoleName": "web", "MaxSessionDuration": 43200}
    assert steps["update_profile"]["durationSeconds"] == 43200
    new = {step.operation: step.parameters for step in plan(Existing(), setup(duration=900))}
    assert (new["create_role"]["MaxSessionDuration"], new["create_profile"]["durationSeconds"]) == (3600, 900)


def test_second_ca_is_added_beside_the_first_and_the_plan_says_what_that_means() -> None:
    step = plan(complete(), setup(OTHER_CA, add_ca=True))[0]
    bundle = step.parameters["source"]["sourceData"]["x509CertificateData"]
    assert bundle == (CA.pem + OTHER_CA.pem).decode()
    assert "every role that trusts this trust anchor trusts certificates of both" in step.words
    assert "CN=Other CA" in step.words


def test_statements_of_others_stay_to_the_letter_when_one_is_added() -> None:
    before = {"Version": "2008-10-17", "Id": "x", "Statement": {**EC2, "Condition": {"Bool": {"a:b": ["true"]}}}}
    after = with_statement(before, TAGS, ANCHOR_ARN)
    assert list(after) == list(before)
    assert json.dumps(after["Statement"][0]) == json.dumps(before["Statement"])
    assert after["Statement"][1]["Sid"].startswith("Hwsigner")
    assert with_statement(after, TAGS, ANCHOR_ARN) == after


def test_policy_is_not_widened_when_another_statement_says_the_same_in_another_way() -> None:
    same = write_trust_policy(TAGS, trust_anchor=ANCHOR_ARN)
    [statement] = same["Statement"]
    statement["Action"] = statement["Action"][::-1]
    statement["Condition"]["ArnEquals"]["aws:SourceArn"] = [ANCHOR_ARN]
    assert with_statement(same, TAGS, ANCHOR_ARN) == same
    broader = write_trust_policy({"x509Subject/OU": ["devops"]})
    assert with_statement(broader, TAGS, ANCHOR_ARN) == broader


@pytest.mark.parametrize(
    "condition",
    [
        {"DateLessThan": {"aws:CurrentTime": "2035-01-01T00:00:00Z"}},
        {"StringEqualsIfExists": {"aws:PrincipalTag/x509Issuer/CN": "Another CA"}},
        {"StringEquals": {"sts:RoleSessionName": "0"}},
    ],
)
def test_policy_that_lets_in_some_requests_only_gets_a_statement(condition: dict[str, Any]) -> None:
    narrow = write_trust_policy(TAGS, trust_anchor=ANCHOR_ARN)
    for operator, keys in condition.items():
        narrow["Statement"][0]["Condition"].setdefault(operator, {}).update(keys)
    after = with_statement(narrow, TAGS, ANCHOR_ARN)
    assert after["Statement"][0] == narrow["Statement"][0]
    assert len(after["Statement"]) == 2


def test_each_set_of_names_gets_a_statement_of_its_own() -> None:
    first = with_statement(None, {"x509Subject/CN": ["a"]}, ANCHOR_ARN)
    second = with_statement(first, {"x509Subject/CN": ["b"]}, ANCHOR_ARN)
    third = with_statement(second, {"x509Subject/CN": ["web-*"]}, ANCHOR_ARN)
    assert len({each["Sid"] for each in third["Statement"]}) == 3


def test_policy_over_the_limit_is_refused_in_words() -> None:
    many = {"x509Subject/CN": [f"host-{number}" for number in range(200)]}
    with pytest.raises(UsageError, match=r"would have \d+ characters, and IAM accepts 2048"):
        plan(Existing(), setup(tags=many))
    filler = [{**EC2, "Sid": f"Filler{number}"} for number in range(20)]
    large = {"Version": "2012-10-17", "Statement": filler}
    assert size(large) > 2048
    assert len(with_statement(large, TAGS, ANCHOR_ARN)["Statement"]) == 21


def test_plan_shows_the_difference_of_the_trust_policy() -> None:
    existing = replace(complete(), role=role({"Version": "2012-10-17", "Statement": [EC2]}))
    [step] = plan(existing, setup())
    assert "widen the trust policy of 'web'" in step.words
    assert "x509Subject/CN 'bamboo-01' and x509Subject/OU 'devops' may assume it, too" in step.words
    assert any(line.startswith("+") and ANCHOR_ARN in line for line in step.lines)
    assert not [line for line in step.lines if line.startswith("-") and "ec2" in line]


def test_notes_name_a_deny_that_stays() -> None:
    deny = {"Sid": "NotThisOne", "Effect": "Deny", "Principal": "*", "Action": "sts:*"}
    existing = replace(complete(), role=role({"Version": "2012-10-17", "Statement": [deny]}))
    assert any("will still refuse" in note and "NotThisOne" in note for note in notes(existing, setup()))


def test_note_says_that_a_broader_policy_stays() -> None:
    broader = role(write_trust_policy({"x509Subject/OU": ["devops"]}))
    assert operations(replace(complete(), role=broader)) == []
    assert "lets these certificates in already" in " ".join(notes(replace(complete(), role=broader), setup()))
    assert notes(complete(), setup()) == []


def test_notes_name_other_cas_and_other_roles() -> None:
    existing = Existing(anchor(CA, OTHER_CA), role(), profile(ROLE_ARN, OTHER_ROLE))
    found = " ".join(notes(existing, setup()))
    assert "also trusts CN=Other CA" in found
    assert "1 other role" in found


def test_anchor_is_found_by_name_and_by_ca() -> None:
    named, with_ca = anchor(), anchor(arn=OTHER_ARN, name="another")
    assert choose_anchor([named, with_ca], setup()) == named
    assert choose_anchor([with_ca], setup()) == with_ca
    assert choose_anchor([anchor(OTHER_CA, name="another")], setup()) is None
    assert choose_anchor([named, with_ca], setup(trust_anchor_arn=OTHER_ARN)) == with_ca


def test_ambiguous_anchors_are_listed() -> None:
    both = [anchor(), anchor(arn=OTHER_ARN)]
    with pytest.raises(UsageError, match=rf"there are 2 trust anchors.*{ANCHOR_ARN}, {OTHER_ARN}.*--trust-anchor-arn"):
        choose_anchor(both, setup())


def test_anchor_with_another_ca_is_an_error_unless_it_is_to_be_added() -> None:
    with pytest.raises(UsageError, match=r"has other CAs: .*CN=Other CA.*--add-ca"):
        choose_anchor([anchor(OTHER_CA)], setup())
    assert choose_anchor([anchor(OTHER_CA)], setup(add_ca=True)) == anchor(OTHER_CA)
    with pytest.raises(UsageError, match="no trust anchor 'web' to add the CA to"):
        choose_anchor([], setup(add_ca=True))


def test_anchor_of_another_kind_is_an_error() -> None:
    with pytest.raises(UsageError, match="has no certificate bundle"):
        choose_anchor([replace(anchor(), bundle=None)], setup())


def test_profile_is_found_by_name_and_by_role() -> None:
    named, with_role = profile(ROLE_ARN), profile(ROLE_ARN, arn=OTHER_PROFILE, name="another")
    assert choose_profile([named, with_role], setup(), ROLE_ARN) == named
    assert choose_profile([with_role], setup(), ROLE_ARN) == with_role
    assert choose_profile([profile()], setup(), "") == profile()
    assert choose_profile([named], setup(), "") == named  # Its role was deleted.
    assert choose_profile([profile(OTHER_ROLE, name="another")], setup(), ROLE_ARN) is None


def test_profile_with_other_roles_is_an_error_unless_it_was_named() -> None:
    other = profile(OTHER_ROLE)
    with pytest.raises(UsageError, match=rf"has other roles: {OTHER_ROLE}.*--profile-arn"):
        choose_profile([other], setup(), ROLE_ARN)
    assert choose_profile([other], setup(profile_arn=PROFILE_ARN), ROLE_ARN) == other


def test_arn_of_another_account_is_not_found() -> None:
    foreign = ANCHOR_ARN.replace("123456789012", "999999999999")
    with pytest.raises(UsageError, match=r"do not find in this region.*its account and its region"):
        choose_anchor([anchor()], setup(trust_anchor_arn=foreign))
