"""Actions that a test denies, and faults of the services that boto3 calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError

from certs import Authority
from emulator.planes import ACCOUNT, KEY, REGION, bundle, client
from emulator.test_iam import refused
from hwsigner.emulator import Emulator, Fault
from hwsigner.errors import UsageError

USER = f"arn:aws:iam::{ACCOUNT}:user/{KEY[0]}"
PREFIX = f"arn:aws:rolesanywhere:{REGION}:{ACCOUNT}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/hwsigner-demo"
POLICY = json.dumps({"Statement": {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}})


class Program:
    """Calls of IAM and of the control plane, by their actions."""

    def __init__(self, emulator: Emulator, ca: Authority) -> None:
        self.emulator, self.ca = emulator, ca
        self.iam, self.anywhere = client(emulator, service="iam"), client(emulator)
        self.anchor = emulator.trust_anchor_arn.rpartition("/")[2]
        self.profile = emulator.profile_arn.rpartition("/")[2]

    def call(self, action: str) -> Any:
        name = {"RoleName": "hwsigner-demo"}
        calls: dict[str, Callable[[], Any]] = {
            "iam:CreateRole": lambda: self.iam.create_role(RoleName="new", Path="/a/", AssumeRolePolicyDocument=POLICY),
            "iam:GetRole": lambda: self.iam.get_role(**name),
            "iam:ListRoles": lambda: self.iam.list_roles(),
            "iam:UpdateAssumeRolePolicy": lambda: self.iam.update_assume_role_policy(**name, PolicyDocument=POLICY),
            "rolesanywhere:CreateTrustAnchor": lambda: self.anywhere.create_trust_anchor(
                name="new", source=bundle(self.ca.pem)
            ),
            "rolesanywhere:ListProfiles": lambda: self.anywhere.list_profiles(),
            "rolesanywhere:GetTrustAnchor": lambda: self.anywhere.get_trust_anchor(trustAnchorId=self.anchor),
            "rolesanywhere:CreateProfile": lambda: self.anywhere.create_profile(name="new", roleArns=[ROLE]),
            "rolesanywhere:UpdateProfile": lambda: self.anywhere.update_profile(
                profileId=self.profile, roleArns=[ROLE]
            ),
            "rolesanywhere:TagResource": lambda: self.anywhere.tag_resource(
                resourceArn=self.emulator.profile_arn, tags=[{"key": "a", "value": "b"}]
            ),
        }
        return calls[action]()

    def refused(self, action: str) -> tuple[int, str, str]:
        """Return the status, code and message of the error."""
        return refused(lambda: self.call(action))

    def state(self) -> Any:
        """Return what there is, without the time."""
        found = (self.iam.list_roles()["Roles"], self.anywhere.list_trust_anchors()["trustAnchors"])
        return found, self.anywhere.list_profiles()["profiles"]


@pytest.fixture
def program(emulator: Emulator, ca: Authority) -> Program:
    return Program(emulator, ca)


RESOURCES = {
    "iam:CreateRole": f"arn:aws:iam::{ACCOUNT}:role/a/new",
    "iam:GetRole": ROLE,
    "iam:ListRoles": f"arn:aws:iam::{ACCOUNT}:role/",
    "iam:UpdateAssumeRolePolicy": ROLE,
    "rolesanywhere:CreateTrustAnchor": "*",
    "rolesanywhere:ListProfiles": "*",
    "rolesanywhere:GetTrustAnchor": f"{PREFIX}:trust-anchor/00000000-0000-4000-8000-000000000000",
    "rolesanywhere:CreateProfile": "*",
    "rolesanywhere:UpdateProfile": f"{PREFIX}:profile/11111111-1111-4111-8111-111111111111",
    "rolesanywhere:TagResource": f"{PREFIX}:profile/11111111-1111-4111-8111-111111111111",
}


@pytest.mark.parametrize("action", RESOURCES)
def test_denied_action_is_refused_in_the_words_of_aws_and_nothing_changes(program: Program, action: str) -> None:
    before = program.state()
    program.emulator.deny(action)
    code = "AccessDenied" if action.startswith("iam:") else "AccessDeniedException"
    message = (
        f"User: {USER} is not authorized to perform: {action} on resource: {RESOURCES[action]} "
        f"because no identity-based policy allows the {action} action"
    )
    assert program.refused(action) == (403, code, message)
    record = program.emulator.requests[-1]
    assert (record.action, record.answer_type, record.accepted) == (action, code, False)
    program.emulator.allow()
    assert program.state() == before
    program.call(action)


@pytest.mark.parametrize("action", ["rolesanywhere:CreateProfile", "rolesanywhere:UpdateProfile"])
def test_profile_is_refused_when_its_role_may_not_be_passed(program: Program, action: str) -> None:
    program.emulator.deny("iam:PassRole")
    status, code, message = program.refused(action)
    assert (status, code) == (403, "AccessDeniedException")
    assert f"{USER} is not authorized to perform: iam:PassRole on resource: {ROLE} because" in message
    program.anywhere.update_profile(profileId=program.profile, name="no roles in this call")


def test_denied_actions_may_have_wildcards_in_any_case(program: Program) -> None:
    program.emulator.deny("iam:create*", "RolesAnywhere:*".lower())
    assert program.refused("iam:CreateRole")[1] == "AccessDenied"
    assert program.refused("rolesanywhere:ListProfiles")[1] == "AccessDeniedException"
    program.call("iam:ListRoles")


@pytest.mark.parametrize("action", ["PassRole", "iam:", "iam:PassRole, iam:GetRole", ""])
def test_malformed_action_is_an_error(emulator: Emulator, action: str) -> None:
    with pytest.raises(UsageError, match="is not an action"):
        emulator.deny(action)
    with pytest.raises(UsageError, match="is not an action"):
        emulator.misbehave(Fault("throttle"), action=action)


FAULTS = {
    "throttle": (Fault("throttle"), (400, "Throttling"), (429, "ThrottlingException")),
    "fail": (Fault("fail"), (500, "InternalFailure"), (500, "InternalServerException")),
    "busy": (Fault("fail", status=503), (503, "ServiceUnavailable"), (503, "ServiceUnavailableException")),
    "deny": (Fault("deny"), (403, "AccessDenied"), (403, "AccessDeniedException")),
}


@pytest.mark.parametrize("action", ["iam:CreateRole", "rolesanywhere:CreateTrustAnchor"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_has_the_form_of_the_service_and_nothing_changes(program: Program, name: str, action: str) -> None:
    fault, by_iam, by_roles_anywhere = FAULTS[name]
    before = program.state()
    program.emulator.misbehave(fault, action=action)
    assert program.refused(action)[:2] == (by_iam if action.startswith("iam:") else by_roles_anywhere)
    record = program.emulator.requests[-1]
    assert (record.fault, record.accepted) == (fault.name, True)
    assert program.state() == before
    program.call(action)


@pytest.mark.slow
@pytest.mark.parametrize("service", ["iam", "rolesanywhere"])
def test_boto3_retries_when_it_is_throttled(emulator: Emulator, service: str) -> None:
    emulator.add_credentials(*KEY)
    config = Config(retries={"mode": "standard"})
    patient = boto3.Session(*KEY, region_name=REGION).client(service, endpoint_url=emulator.url, config=config)
    emulator.misbehave(Fault("throttle", 2), action=f"{service}:*")
    calls = {"iam": "list_roles", "rolesanywhere": "list_profiles"}
    answer = getattr(patient, calls[service])()
    assert answer["ResponseMetadata"]["RetryAttempts"] == 2
    assert [record.fault for record in emulator.requests] == ["throttle", "throttle", ""]


def test_request_is_done_when_only_its_answer_is_lost(program: Program) -> None:
    program.emulator.misbehave(Fault("close"), action="iam:CreateRole")
    with pytest.raises(ConnectionClosedError):
        program.call("iam:CreateRole")
    assert program.refused("iam:CreateRole")[:2] == (409, "EntityAlreadyExists")


def test_faults_of_one_action_leave_others_alone(program: Program) -> None:
    program.emulator.misbehave(Fault("throttle"), action="iam:GetRole")
    program.emulator.misbehave(Fault("fail"), action="rolesanywhere:*")
    program.call("iam:ListRoles")
    assert program.refused("rolesanywhere:ListProfiles")[1] == "InternalServerException"
    assert program.refused("iam:GetRole")[1] == "Throttling"
    program.emulator.misbehave(Fault("throttle", None), action="*")
    program.emulator.clear_faults()
    program.call("iam:GetRole")


def test_fault_of_credentials_is_for_create_session_only(emulator: Emulator) -> None:
    with pytest.raises(UsageError, match="the fault other-role is for CreateSession only"):
        emulator.misbehave(Fault("other-role"), action="iam:*")


def test_refused_signature_is_refused_even_during_a_fault(program: Program) -> None:
    program.emulator.add_credentials(KEY[0], "another-secret")
    program.emulator.misbehave(Fault("close"), action="iam:*")
    with pytest.raises(ConnectionClosedError):
        program.call("iam:CreateRole")
    assert not program.emulator.requests[-1].accepted
    assert len(program.emulator.world.roles) == 1
