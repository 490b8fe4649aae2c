"""IAM's actions for roles, called with boto3 and compared with moto."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from certs import Authority
from emulator.client import Caller, create_session, draft, send
from emulator.planes import ACCOUNT, REGION, client
from hwsigner.emulator import Emulator, Role, World

ACTIONS = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
READ_ONLY = "arn:aws:iam::aws:policy/ReadOnlyAccess"
FOREIGN = "arn:aws:iam::111122223333:policy/x"


def document(**changes: Any) -> str:
    """Return a trust policy with one statement, with some of its elements changed. None removes one."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "rolesanywhere.amazonaws.com"},
        "Action": ACTIONS,
        **changes,
    }
    kept = {name: value for name, value in statement.items() if value is not None}
    return json.dumps({"Version": "2012-10-17", "Statement": [kept]}, indent=1)


OPEN = document()


@pytest.fixture
def iam(emulator: Emulator) -> Any:
    return client(emulator, service="iam", check=False)


def refused(call: Callable[[], object]) -> tuple[int, str, str]:
    """Return the status, code and message of the error that a call must raise."""
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"], response["Error"]["Message"]


def shape(value: object) -> object:
    """Return a response with types instead of values, without what is different in each one."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items() if key != "ResponseMetadata"}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


def test_role_has_what_it_was_made_with(iam: Any) -> None:
    tags = [{"Key": "team", "Value": "a=b@c é"}]
    with_path = {"Path": "/edge/", "Description": "line 1\r\n<line> 2", "MaxSessionDuration": 7200, "Tags": tags}
    created = iam.create_role(RoleName="web", AssumeRolePolicyDocument=OPEN, **with_path)["Role"]
    role = iam.get_role(RoleName="web")["Role"]
    assert role["Arn"] == created["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/edge/web"
    assert {name: role[name] for name in with_path} == with_path
    assert role["AssumeRolePolicyDocument"] == json.loads(OPEN)
    assert role["RoleId"].startswith("AROA")


def test_trust_policy_is_kept_to_the_letter(emulator: Emulator, iam: Any) -> None:
    text = '{ "Statement" : {"Effect":"Allow",\n\t"Principal":{"AWS":"*"}, "Action":"sts:*"},  "Version":"2012-10-17"}'
    answers: list[bytes] = []
    iam.meta.events.register("response-received.iam", lambda response_dict, **_: answers.append(response_dict["body"]))
    iam.create_role(RoleName="web", AssumeRolePolicyDocument=text)
    iam.get_role(RoleName="web")
    kept = f"<AssumeRolePolicyDocument>{quote(text, safe='')}<".encode()
    assert [kept in answer for answer in answers] == [True, True]


def test_permissions_boundary_is_kept_and_shown(iam: Any) -> None:
    web = {"RoleName": "web"}
    iam.create_role(**web, AssumeRolePolicyDocument=OPEN, PermissionsBoundary=READ_ONLY)
    shown = {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": READ_ONLY}
    assert iam.get_role(**web)["Role"]["PermissionsBoundary"] == shown
    iam.update_assume_role_policy(**web, PolicyDocument=OPEN)
    assert iam.get_role(**web)["Role"]["PermissionsBoundary"] == shown
    iam.delete_role_permissions_boundary(**web)
    assert "PermissionsBoundary" not in iam.get_role(**web)["Role"]
    assert refused(lambda: iam.delete_role_permissions_boundary(**web))[:2] == (404, "NoSuchEntity")
    put = iam.put_role_permissions_boundary
    assert refused(lambda: put(**web, PermissionsBoundary=FOREIGN))[:2] == (404, "NoSuchEntity")
    put(**web, PermissionsBoundary=READ_ONLY)
    assert iam.get_role(**web)["Role"]["PermissionsBoundary"] == shown


def test_boundary_that_is_required_is_the_only_one_that_a_role_may_have(emulator: Emulator, iam: Any) -> None:
    emulator.world.required_boundary = READ_ONLY
    web, other = {"RoleName": "web"}, "arn:aws:iam::aws:policy/PowerUserAccess"
    create, put = iam.create_role, iam.put_role_permissions_boundary
    assert refused(lambda: create(**web, AssumeRolePolicyDocument=OPEN))[:2] == (403, "AccessDenied")
    create(**web, AssumeRolePolicyDocument=OPEN, PermissionsBoundary=READ_ONLY)
    assert refused(lambda: put(**web, PermissionsBoundary=other))[:2] == (403, "AccessDenied")
    assert refused(lambda: iam.delete_role_permissions_boundary(**web))[:2] == (403, "AccessDenied")


def test_policies_that_the_world_does_not_have_are_refused(emulator: Emulator, iam: Any) -> None:
    emulator.world.policies = {READ_ONLY: ()}
    other = "arn:aws:iam::aws:policy/ReadOnlyAcces"
    web = {"RoleName": "web", "AssumeRolePolicyDocument": OPEN}
    assert refused(lambda: iam.create_role(**web, PermissionsBoundary=other))[:2] == (404, "NoSuchEntity")
    iam.create_role(**web, PermissionsBoundary=READ_ONLY)
    attach = iam.attach_role_policy
    assert refused(lambda: attach(RoleName="web", PolicyArn=other))[:2] == (404, "NoSuchEntity")


def program(iam: Any) -> Iterator[Callable[[], Any]]:
    """The calls of a program that sets up a role, and then takes everything down."""
    web = {"RoleName": "web"}
    yield lambda: iam.create_role(**web, AssumeRolePolicyDocument=OPEN)
    yield lambda: iam.update_role(**web, Description="web servers", MaxSessionDuration=43200)
    yield lambda: iam.update_assume_role_policy(**web, PolicyDocument=document(Condition={"Null": {"a:b": "true"}}))
    yield lambda: iam.tag_role(**web, Tags=[{"Key": "team", "Value": "edge"}, {"Key": "b", "Value": ""}])
    yield lambda: iam.list_role_tags(**web)
    yield lambda: iam.list_role_tags(**web, MaxItems=1)["IsTruncated"]
    yield lambda: iam.get_role(**web)
    yield lambda: iam.untag_role(**web, TagKeys=["team", "none"])
    yield lambda: iam.list_role_tags(**web)
    yield lambda: iam.list_role_policies(**web)
    yield lambda: iam.list_attached_role_policies(**web)
    yield lambda: iam.attach_role_policy(**web, PolicyArn=READ_ONLY)
    yield lambda: iam.list_attached_role_policies(**web)["AttachedPolicies"]
    yield lambda: refused(lambda: iam.delete_role(**web))
    yield lambda: iam.detach_role_policy(**web, PolicyArn=READ_ONLY)
    yield lambda: refused(lambda: iam.detach_role_policy(**web, PolicyArn=READ_ONLY))
    yield lambda: refused(lambda: iam.create_role(**web, AssumeRolePolicyDocument=OPEN))
    yield lambda: iam.delete_role(**web)
    others: dict[str, dict[str, Any]] = {
        "get_role": {},
        "delete_role": {},
        "list_role_tags": {},
        "tag_role": {"Tags": [{"Key": "a", "Value": "b"}]},
        "update_role": {"Description": "x"},
        "update_assume_role_policy": {"PolicyDocument": OPEN},
        "list_role_policies": {},
        "list_attached_role_policies": {},
    }
    for operation, parameters in others.items():
        yield functools.partial(missing, getattr(iam, operation), {**web, **parameters})


def missing(call: Callable[..., object], parameters: dict[str, Any]) -> tuple[int, str]:
    return refused(lambda: call(**parameters))[:2]


@pytest.mark.slow
def test_program_sees_the_same_as_with_moto(emulator: Emulator, iam: Any) -> None:
    ours = [call() for call in program(iam)]
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        theirs = [
            call() for call in program(boto3.client("iam", REGION, aws_access_key_id="a", aws_secret_access_key="b"))
        ]
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if isinstance(our, tuple | bool):
            assert our == their, number
        elif isinstance(our, dict) and "Role" in our:
            # moto's CreateRole has more members than AWS's documentation of it.
            both = our["Role"].keys() & their["Role"].keys()
            assert {"Path", "RoleName", "RoleId", "Arn", "CreateDate", "AssumeRolePolicyDocument"} <= both, number
            assert shape({k: our["Role"][k] for k in both}) == shape({k: their["Role"][k] for k in both}), number
        else:
            assert shape(our) == shape(their), number


def test_roles_are_listed_page_by_page(iam: Any) -> None:
    names = [f"role-{number:02}" for number in range(12)]
    for name in reversed(names):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=OPEN, Path="/edge/" if name > "role-05" else "/")
    pages = list(iam.get_paginator("list_roles").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Roles"]) for page in pages] == [5, 5, 3]
    assert [role["RoleName"] for page in pages for role in page["Roles"]] == ["hwsigner-demo", *names]
    found = iam.list_roles(PathPrefix="/edge/")
    assert ([role["RoleName"] for role in found["Roles"]], found["IsTruncated"]) == (names[6:], False)


def test_page_goes_on_after_what_was_seen_when_a_role_is_deleted(iam: Any) -> None:
    for name in ("a", "b", "c"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=OPEN)
    first = iam.list_roles(MaxItems=2)
    iam.delete_role(RoleName="a")
    rest = iam.list_roles(Marker=first["Marker"])
    assert [role["RoleName"] for role in rest["Roles"]] == ["c", "hwsigner-demo"]


def test_role_of_the_world_has_a_trust_policy_that_says_what_is_required(ca: Authority) -> None:
    world = World.simple(ca.pem)
    tagged = Role(f"arn:aws:iam::{ACCOUNT}:role/a/tagged", principal_tags={"x509Subject/CN": "bamboo-01"})
    foreign = Role("arn:aws:iam::111122223333:role/foreign")
    world.roles |= {role.arn: role for role in (tagged, foreign)}
    with Emulator(world) as emulator:
        iam = client(emulator, service="iam")
        assert [role["RoleName"] for role in iam.list_roles()["Roles"]] == ["hwsigner-demo", "tagged"]
        (statement,) = iam.get_role(RoleName="tagged")["Role"]["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Condition"] == {"StringEquals": {"aws:PrincipalTag/x509Subject/CN": "bamboo-01"}}
        assert refused(lambda: iam.get_role(RoleName="foreign"))[:2] == (404, "NoSuchEntity")


@pytest.mark.slow
def test_session_is_judged_by_the_trust_policy_that_iam_has(emulator: Emulator, caller: Caller, iam: Any) -> None:
    role, session, arn = {"RoleName": "hwsigner-demo"}, draft(emulator, caller), emulator.role_arn
    iam.delete_role(**role)
    reply = send(emulator, session.signed())
    assert (reply.status, reply.json["message"]) == (403, f"Unable to assume role for {arn}")
    for value, status in (("bamboo-01", 201), ("bamboo-02", 403)):
        policy = document(Condition={"StringEquals": {"aws:PrincipalTag/x509Subject/CN": value}})
        iam.create_role(**role, AssumeRolePolicyDocument=policy)
        assert send(emulator, session.signed()).status == status
        iam.delete_role(**role)


@pytest.mark.parametrize(
    "policy",
    [
        document(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}),
        document(Action=None, NotAction="sts:AssumeRole"),
    ],
)
def test_policy_that_can_not_be_judged_is_stored_and_refuses_sessions(
    emulator: Emulator, caller: Caller, iam: Any, policy: str
) -> None:
    iam.update_assume_role_policy(RoleName="hwsigner-demo", PolicyDocument=policy)
    stored = iam.get_role(RoleName="hwsigner-demo")["Role"]["AssumeRolePolicyDocument"]
    assert stored == json.loads(policy)
    assert create_session(emulator, caller).status == 403
    assert "the trust policy can't be judged: " in emulator.requests[-1].reason


MALFORMED = {
    "not JSON": "{",
    "a list": "[]",
    "no statement": '{"Version": "2012-10-17"}',
    "an empty statement list": '{"Statement": []}',
    "a statement that is text": '{"Statement": "x"}',
    "an unknown version": '{"Version": "2013-01-01", "Statement": []}',
    "an unknown member": '{"Statement": [], "Statements": []}',
    "a resource": document(Resource="*"),
    "no principal": document(Principal=None),
    "an empty principal": document(Principal={}),
    "an unknown type of principal": document(Principal={"Services": "rolesanywhere.amazonaws.com"}),
    "all but a principal": document(Principal=None, NotPrincipal={"AWS": ACCOUNT}, Effect="Deny"),
    "a principal and all but one": document(NotPrincipal={"AWS": ACCOUNT}),
    "every service beside one": document(Principal={"Service": ["rolesanywhere.amazonaws.com", "*"]}),
    "a service that AWS does not have": document(Principal={"Service": "rolesanywhere.example.com"}),
    "roles with a wildcard": document(Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:role/*"}),
    "every identity provider": document(Principal={"Federated": "*"}),
    "IfExists in lower case": document(Condition={"StringEqualsifexists": {"aws:PrincipalTag/x509Subject/CN": "a"}}),
    "no action": document(Action=None),
    "both actions": document(NotAction="sts:GetFederationToken"),
    "another service's action": document(Action=["sts:AssumeRole", "s3:GetObject"]),
    "no effect": document(Effect=None),
    "an unknown effect": document(Effect="allow"),
    "a sid with a space": document(Sid="a b"),
    "an unknown operator": document(Condition={"StringEqual": {"a:b": "c"}}),
    "a number that JSON does not have": document(Condition={"StringEquals": {"a:b": float("nan")}}),
    "a condition without keys": document(Condition={"StringEquals": "c"}),
    "an object as a value": document(Condition={"StringEquals": {"a:b": {"c": "d"}}}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_trust_policy_is_refused_and_nothing_changes(iam: Any, case: str) -> None:
    before = iam.get_role(RoleName="hwsigner-demo")["Role"]
    parameters = {"RoleName": "hwsigner-demo", "PolicyDocument": MALFORMED[case]}
    assert refused(lambda: iam.update_assume_role_policy(**parameters))[:2] == (400, "MalformedPolicyDocument")
    made_of_it = {"RoleName": "new", "AssumeRolePolicyDocument": MALFORMED[case]}
    assert refused(lambda: iam.create_role(**made_of_it))[:2] == (400, "MalformedPolicyDocument")
    assert iam.get_role(RoleName="hwsigner-demo")["Role"] == before
    assert [role["RoleName"] for role in iam.list_roles()["Roles"]] == ["hwsigner-demo"]


INVALID = (400, "ValidationError")
NOT_THERE = (404, "NoSuchEntity")
SHORT = "'maxSessionDuration' failed to satisfy constraint: Member must have value greater than or equal to 3600"
REFUSED: list[tuple[str, dict[str, Any], tuple[int, str], str]] = [
    ("get_role", {"RoleName": "a b"}, INVALID, "roleName"),
    ("get_role", {"RoleName": "a" * 65}, INVALID, "less than or equal to 64"),
    ("create_role", {"Path": "/a", "AssumeRolePolicyDocument": OPEN}, INVALID, "path"),
    (
        "create_role",
        {"RoleName": "HWSIGNER-demo", "AssumeRolePolicyDocument": OPEN},
        (409, "EntityAlreadyExists"),
        "already exists",
    ),
    ("update_role", {"MaxSessionDuration": 3599}, INVALID, SHORT),
    ("update_role", {"MaxSessionDuration": 43201}, INVALID, "less than or equal to 43200"),
    ("update_role", {"Description": "Ω"}, INVALID, "description"),
    ("tag_role", {"Tags": [{"Key": key, "Value": ""} for key in "aA"]}, (400, "InvalidInput"), "Duplicate tag keys"),
    ("tag_role", {"Tags": [{"Key": "AWS:a", "Value": ""}]}, (400, "InvalidInput"), "reserved"),
    ("tag_role", {"Tags": [{"Key": "a", "Value": "b,c"}]}, INVALID, "tags.1.member.value"),
    ("tag_role", {"Tags": [{"Key": f"{n}", "Value": ""} for n in range(51)]}, INVALID, "less than or equal to 50"),
    ("list_roles", {"Marker": "page 2"}, INVALID, "Marker"),
    ("attach_role_policy", {"PolicyArn": FOREIGN}, NOT_THERE, "does not exist or is not attachable"),
    ("list_attached_role_policies", {"PathPrefix": "/a/"}, INVALID, "PathPrefix is unknown or not implemented"),
    ("list_users", {}, (400, "InvalidAction"), "ListUsers"),
]


@pytest.mark.parametrize(("operation", "parameters", "error", "words"), REFUSED)
def test_request_is_refused_as_iam_refuses_it(
    iam: Any, operation: str, parameters: dict[str, Any], error: tuple[int, str], words: str
) -> None:
    role = {} if operation in ("list_roles", "list_users") else {"RoleName": "hwsigner-demo"}
    *found, message = refused(lambda: getattr(iam, operation)(**{**role, **parameters}))
    assert tuple(found) == error
    assert words in message


def test_role_has_at_most_ten_policies_and_fifty_tags(iam: Any) -> None:
    role = {"RoleName": "hwsigner-demo"}
    for number in range(10):
        iam.attach_role_policy(**role, PolicyArn=f"arn:aws:iam::{ACCOUNT}:policy/p{number}")
    iam.attach_role_policy(**role, PolicyArn=f"arn:aws:iam::{ACCOUNT}:policy/p0")
    assert refused(lambda: iam.attach_role_policy(**role, PolicyArn=READ_ONLY))[:2] == (409, "LimitExceeded")
    iam.tag_role(**role, Tags=[{"Key": f"{number}", "Value": ""} for number in range(50)])
    iam.tag_role(**role, Tags=[{"Key": "1", "Value": "again"}])
    assert refused(lambda: iam.tag_role(**role, Tags=[{"Key": "one more", "Value": ""}]))[:2] == (409, "LimitExceeded")


def test_tag_replaces_the_one_that_differs_in_case(iam: Any) -> None:
    for key in ("Team", "team"):
        iam.tag_role(RoleName="hwsigner-demo", Tags=[{"Key": key, "Value": key}])
    assert iam.list_role_tags(RoleName="hwsigner-demo")["Tags"] == [{"Key": "team", "Value": "team"}]
    iam.untag_role(RoleName="hwsigner-demo", TagKeys=["TEAM"])
    assert "Tags" not in iam.get_role(RoleName="hwsigner-demo")["Role"]


def test_iam_is_in_one_region_only(emulator: Emulator) -> None:
    error = refused(client(emulator, "eu-central-1", service="iam").list_roles)
    assert error[:2] == (403, "SignatureDoesNotMatch")
    assert "us-east-1" in error[2]


def test_iam_of_another_partition_has_its_own_roles(ca: Authority) -> None:
    with Emulator(World.simple(ca.pem, region="cn-north-1")) as emulator:
        assert client(emulator, service="iam").list_roles()["Roles"] == []
        (role,) = client(emulator, "cn-north-1", service="iam").list_roles()["Roles"]
        assert role["Arn"].startswith("arn:aws-cn:iam::")


@pytest.mark.parametrize("character", ["\f", "\x1c", "\x85"])
def test_tag_with_a_control_character_is_refused(iam: Any, character: str) -> None:
    iam.create_role(RoleName="tagged", AssumeRolePolicyDocument=OPEN)
    for tag in ({"Key": f"a{character}", "Value": ""}, {"Key": "a", "Value": character}):
        with pytest.raises(ClientError, match="ValidationError"):
            iam.tag_role(RoleName="tagged", Tags=[tag])
    assert "Tags" not in iam.get_role(RoleName="tagged")["Role"]
