"""sts:AssumeRole, called by boto3 with a user's key and with the credentials of a session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emulator.client import Caller, create_session
from emulator.planes import client, refused
from hwsigner.emulator import Emulator, Role
from hwsigner.emulator.iam_policies import read_policy

OTHER = "arn:aws:iam::999999999999:role/path/other"
BOUNDARY = "arn:aws:iam::123456789012:policy/limits"
BOTH = ["sts:AssumeRole", "sts:SetSourceIdentity"]


def other(emulator: Emulator, principal: Any, *, actions: Any = BOTH, **more: Any) -> Role:
    """Add a role of another account, which trusts a principal."""
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": actions, **more}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    role = Role(OTHER, trust_policy=read_policy(document))
    emulator.world.roles[OTHER] = role
    return role


def sts(emulator: Emulator, caller: Caller | None = None) -> Any:
    """Return boto3's client, with the credentials of a session or a user's key."""
    if caller is None:
        return client(emulator, service="sts")
    found = create_session(emulator, caller).credentials
    keys = (found["accessKeyId"], found["secretAccessKey"], found["sessionToken"])
    return client(emulator, service="sts", credentials=keys)


def assume(api: Any, **members: Any) -> dict[str, Any]:
    found: dict[str, Any] = api.assume_role(**{"RoleArn": OTHER, "RoleSessionName": "s1", **members})
    return found


def test_session_assumes_a_role_of_another_account(emulator: Emulator, caller: Caller) -> None:
    role = other(emulator, emulator.role_arn)
    found = assume(sts(emulator, caller))
    user, keys = found["AssumedRoleUser"], found["Credentials"]
    assert user == {
        "AssumedRoleId": f"{role.id}:s1",
        "Arn": "arn:aws:sts::999999999999:assumed-role/other/s1",
    }
    assert found["SourceIdentity"].startswith("CN=")
    credentials = (keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    identity = client(emulator, service="sts", credentials=credentials).get_caller_identity()
    assert (identity["Arn"], identity["Account"]) == (user["Arn"], "999999999999")
    assert emulator.requests[-2].action == "sts:AssumeRole"


@pytest.mark.parametrize(
    "principal", ["123456789012", "arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:user/AKIDPLANE", "*"]
)
def test_user_assumes_a_role_that_trusts_the_user_or_the_account(emulator: Emulator, principal: str) -> None:
    other(emulator, [principal, "arn:aws:iam::111111111111:root"], actions="sts:AssumeRole")
    assert "SourceIdentity" not in assume(sts(emulator))


@pytest.mark.parametrize("principal", ["111111111111", "arn:aws:iam::123456789012:user/ann"])
def test_role_is_refused_to_others(emulator: Emulator, principal: str) -> None:
    other(emulator, principal)
    code, message = refused(sts(emulator).assume_role, RoleArn=OTHER, RoleSessionName="s1")
    user = "arn:aws:iam::123456789012:user/AKIDPLANE"
    assert code == "AccessDenied"
    assert message == f"User: {user} is not authorized to perform: sts:AssumeRole on resource: {OTHER}"


def test_role_that_does_not_exist_is_refused_like_one_that_trusts_others(emulator: Emulator) -> None:
    assert refused(sts(emulator).assume_role, RoleArn=OTHER, RoleSessionName="s1")[0] == "AccessDenied"
    assert emulator.requests[-1].reason == "the role does not exist"


def test_role_for_certificates_only_is_refused(emulator: Emulator) -> None:
    found = refused(sts(emulator).assume_role, RoleArn=emulator.role_arn, RoleSessionName="s1")
    assert found[0] == "AccessDenied"


def test_denied_action_is_refused(emulator: Emulator) -> None:
    other(emulator, "*")
    emulator.deny("sts:AssumeRole")
    assert refused(sts(emulator).assume_role, RoleArn=OTHER, RoleSessionName="s1")[0] == "AccessDenied"


@pytest.mark.parametrize(("allowed", "is_refused"), [(("s3:*",), True), (("s3:*", "sts:Assume*"), False)])
def test_session_may_not_do_what_the_boundary_of_its_role_does_not_allow(
    emulator: Emulator, caller: Caller, allowed: tuple[str, ...], is_refused: bool
) -> None:
    other(emulator, emulator.role_arn)
    emulator.world.policies = {BOUNDARY: (*allowed, "sts:SetSourceIdentity")}
    emulator.world.roles[emulator.role_arn].boundary = BOUNDARY
    if not is_refused:
        assume(sts(emulator, caller))
        return
    code, message = refused(sts(emulator, caller).assume_role, RoleArn=OTHER, RoleSessionName="s1")
    assert code == "AccessDenied"
    assert message.endswith("because no permissions boundary allows the sts:AssumeRole action")


@pytest.mark.parametrize(
    ("condition", "external_id", "is_allowed"),
    [
        ({"StringEquals": {"sts:ExternalId": ["e-1", "e-2"]}}, "e-2", True),
        ({"StringEquals": {"sts:ExternalId": "e-1"}}, "e-2", False),
        ({"StringEquals": {"sts:ExternalId": "e-1"}}, None, False),
        ({"StringNotEquals": {"sts:ExternalId": "e-1"}}, None, True),
        ({"StringLike": {"sts:RoleSessionName": "s?"}}, None, True),
        ({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::123456789012:user/*"}}, None, True),
        ({"StringEquals": {"aws:PrincipalAccount": "111111111111"}}, None, False),
        ({"StringEquals": {"aws:PrincipalOrgID": "o-1"}}, None, False),
        ({"Bool": {"aws:MultiFactorAuthPresent": "false"}}, None, False),
    ],
)
def test_conditions_decide(
    emulator: Emulator, condition: dict[str, Any], external_id: str | None, is_allowed: bool
) -> None:
    other(emulator, "*", Condition=condition)
    members = {"ExternalId": external_id} if external_id else {}
    if is_allowed:
        assume(sts(emulator), **members)
    else:
        assert refused(sts(emulator).assume_role, RoleArn=OTHER, RoleSessionName="s1", **members)[0] == "AccessDenied"


def test_tags_of_the_callers_session_decide_and_the_next_session_lacks_them(emulator: Emulator, caller: Caller) -> None:
    other(emulator, "*", Condition={"StringEquals": {"aws:PrincipalTag/x509Subject/CN": "bamboo-01"}})
    keys = assume(sts(emulator, caller))["Credentials"]
    credentials = (keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    chained = client(emulator, service="sts", credentials=credentials)
    assert refused(chained.assume_role, RoleArn=OTHER, RoleSessionName="s1")[0] == "AccessDenied"


def test_deny_outweighs_an_allow_and_counts_when_its_condition_is_not_known(emulator: Emulator) -> None:
    allow = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:*"}
    for condition in ({}, {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}):
        deny = {"Effect": "Deny", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole", "Condition": condition}
        document = json.dumps({"Version": "2012-10-17", "Statement": [allow, deny]})
        emulator.world.roles[OTHER] = Role(OTHER, trust_policy=read_policy(document))
        assert refused(sts(emulator).assume_role, RoleArn=OTHER, RoleSessionName="s1")[0] == "AccessDenied"


def test_chained_session_lasts_one_hour_at_most(emulator: Emulator, caller: Caller) -> None:
    role = other(emulator, "*")
    role.max_session_duration = 7200
    assume(sts(emulator), DurationSeconds=7200)
    members = {"RoleArn": OTHER, "RoleSessionName": "s1", "DurationSeconds": 3601}
    code, message = refused(sts(emulator, caller).assume_role, **members)
    assert (code, "1 hour session limit for roles assumed by role chaining" in message) == ("ValidationError", True)


@pytest.mark.parametrize(
    "members",
    [
        {"DurationSeconds": 3601},
        {"RoleArn": "arn:aws:iam::999999999999:user/ann"},
        {"Policy": "{}"},
    ],
)
def test_invalid_and_unknown_parameters_are_refused(emulator: Emulator, members: dict[str, Any]) -> None:
    other(emulator, "*")
    given = {"RoleArn": OTHER, "RoleSessionName": "s1", **members}
    assert refused(sts(emulator).assume_role, **given)[0] == "ValidationError"


def test_short_session_names_are_refused(emulator: Emulator) -> None:
    api = client(emulator, service="sts", check=False)
    assert refused(api.assume_role, RoleArn=OTHER, RoleSessionName="s")[0] == "ValidationError"
