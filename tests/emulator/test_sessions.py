"""CreateSession: what no question says of granted sessions and their properties."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certs import Authority
from emulator.client import Caller, create_session, draft, send
from emulator.conftest import KEYS
from emulator.material import DAY, Form, authority, certificate
from hwsigner.emulator import Emulator, Profile, Role, World
from hwsigner.trust_policy import TrustPolicy


@pytest.mark.parametrize("kind", KEYS)
def test_each_kind_of_key_gets_credentials(emulator: Emulator, callers: dict[str, Caller], kind: str) -> None:
    reply = create_session(emulator, callers[kind])
    assert reply.status == 201
    record = emulator.requests[0]
    assert (record.status, record.answer_type, record.accepted, record.findings) == (201, "Success", True, [])


def test_answer_has_the_documented_form(emulator: Emulator, caller: Caller) -> None:
    reply = create_session(emulator, caller)
    name = f"{caller.certificate.serial_number:x}"
    name = name.zfill(len(name) + len(name) % 2)
    found = reply.json["credentialSet"][0]
    user = found["assumedRoleUser"]
    assert user["arn"] == f"arn:aws:sts::123456789012:assumed-role/hwsigner-demo/{name}"
    assert re.fullmatch(rf"AROA[A-Z2-7]{{16}}:{name}", user["assumedRoleId"])
    assert re.fullmatch(r"ASIA[A-Z2-7]{16}", reply.credentials["accessKeyId"])
    assert len(reply.credentials["secretAccessKey"]) == 40
    assert len(reply.credentials["sessionToken"]) == 400
    assert type(found["packedPolicySize"]) is int
    assert re.fullmatch(r"arn:aws:rolesanywhere:us-east-1:123456789012:subject/[0-9a-f-]{36}", reply.json["subjectArn"])
    assert reply.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[0-9a-f-]{36}", reply.headers["x-amzn-requestid"])
    assert reply.headers["date"].endswith(" GMT")


def body(**members: Any) -> bytes:
    return json.dumps(members).encode()


def test_session_lifetime_follows_request_profile_and_role(ca: Authority, caller: Caller) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    with Emulator(World.simple(ca.pem), clock=lambda: now) as emulator:
        reply = create_session(emulator, caller, body=body(durationSeconds=900))
    assert reply.credentials["expiration"] == f"{now + timedelta(seconds=900):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize("name", ["ab", "a" * 64, "build_7+x=y,z.@-"])
def test_session_name_is_used_when_the_profile_allows_it(ca: Authority, caller: Caller, name: str) -> None:
    with Emulator(World.simple(ca.pem, accept_role_session_name=True)) as emulator:
        reply = create_session(emulator, caller, body=body(roleSessionName=name))
    assert reply.json["credentialSet"][0]["assumedRoleUser"]["arn"].endswith(f"/{name}")


def test_arns_may_be_in_the_body(emulator: Emulator, caller: Caller) -> None:
    made = draft(emulator, caller)
    reply = create_session(emulator, caller, query="", body=body(**made.arns))
    assert reply.status == 201


def test_properties_and_unknown_members_are_accepted(emulator: Emulator, caller: Caller) -> None:
    properties = {str(number).zfill(2): "v" * 200 for number in range(50)}
    assert create_session(emulator, caller, body=body(instanceProperties=properties, other=1)).status == 201


def test_any_certificate_of_any_trust_anchor_is_accepted(ca: Authority, caller: Caller) -> None:
    other = authority()
    expired = Form(ca.certificate.subject, ca=True, usages=("key_cert_sign",), end=-DAY / 2)
    old = Authority(certificate(expired, ca.key.public_key(), None, ca.key), ca.key)
    world = World.simple([other.certificate, old.pem + ca.pem, ca.pem + old.pem])
    with Emulator(world) as emulator:
        for arn, status in zip(world.trust_anchors, (403, 201, 201), strict=True):
            arns = {**draft(emulator, caller).arns, "trustAnchorArn": arn}
            assert create_session(emulator, caller, arns=arns).status == status


def alternative(*names: x509.GeneralName, inner: str) -> Form:
    """Return a leaf with alternative names, and with the CN of a directory name."""
    directory = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, inner)]))
    return Form(extensions=((x509.SubjectAlternativeName([*names, directory]), False),))


def test_role_conditions_on_principal_tags_are_checked(emulator: Emulator, caller: Caller) -> None:
    role, tag = emulator.world.roles[emulator.role_arn], "x509Subject/CN"
    for wanted, status in (("bamboo-01", 201), ("bamboo-02", 403)):
        role.principal_tags = {tag: wanted}
        reply = create_session(emulator, caller)
        assert reply.status == status
    assert reply.json["message"] == f"Unable to assume role for {role.arn}"
    assert tag in emulator.requests[-1].reason


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"StringEquals": {"sts:RoleSessionName": "${aws:PrincipalTag/x509Subject/CN}"}}, 201),
        ({"StringEquals": {"sts:RoleSessionName": "bamboo-02"}}, 403),
        ({"DateLessThan": {"aws:CurrentTime": "2020-01-01"}}, 403),
        ({"StringEquals": {"aws:username": "bamboo-01"}}, 403),
    ],
)
def test_trust_policy_judges_the_certificate_and_the_request(
    ca: Authority, caller: Caller, condition: dict[str, dict[str, str]], status: int
) -> None:
    allowing = {"Effect": "Allow", "Principal": {"Service": "rolesanywhere.amazonaws.com"}}
    judged = {**allowing, "Action": "sts:AssumeRole", "Condition": condition}
    others = {**allowing, "Action": ["sts:TagSession", "sts:SetSourceIdentity"]}
    policy = TrustPolicy({"Version": "2012-10-17", "Statement": [judged, others]})
    with Emulator(World.simple(ca.pem, accept_role_session_name=True, trust_policy=policy)) as emulator:
        assert create_session(emulator, caller, body=body(roleSessionName="bamboo-01")).status == status
        assert status == 201 or next(iter(next(iter(condition.values())))) in emulator.requests[0].reason


def with_mappings(ca: Authority, mappings: dict[str, tuple[str, ...]], **more: Any) -> World:
    """Return a world whose only profile has these attribute mappings."""
    world = World.simple(ca.pem, **more)
    [(arn, profile)] = world.profiles.items()
    world.profiles[arn] = Profile(arn, profile.roles, attribute_mappings=mappings)
    return world


@pytest.mark.parametrize(
    ("mappings", "tag", "is_mapped"),
    [
        ({"x509Subject": ("*",)}, "x509Issuer/CN", False),
        ({"x509Subject": (), "x509Issuer": ("O", "CN")}, "x509Issuer/CN", True),
        ({"x509SAN": ("DNS", "Name/*")}, "x509SAN/URI", False),
        ({"x509SAN": ("Name",)}, "x509SAN/Name/CN", True),
        ({"x509SAN": ("Name/CN",)}, "x509SAN/Name/CN", True),
        ({}, "x509Subject/CN", False),
    ],
)
def test_attribute_mappings_of_the_profile_decide_what_becomes_a_tag(
    ca: Authority, caller: Caller, mappings: dict[str, tuple[str, ...]], tag: str, is_mapped: bool
) -> None:
    form = alternative(x509.UniformResourceIdentifier("spiffe://example/x"), inner="web")
    leaf = certificate(form, caller.key.public_key(), ca)
    absent = {"Null": {f"aws:PrincipalTag/{tag}": "true"}}
    allowing = {"Effect": "Allow", "Principal": {"Service": "rolesanywhere.amazonaws.com"}, "Action": "sts:*"}
    policy = TrustPolicy({"Statement": {**allowing, "Condition": absent}})
    with Emulator(with_mappings(ca, mappings, trust_policy=policy)) as emulator:
        assert create_session(emulator, Caller(caller.key, leaf)).status == (403 if is_mapped else 201)


def test_name_that_is_not_mapped_need_not_be_a_tag_unless_it_is_the_source_identity(
    ca: Authority, caller: Caller
) -> None:
    leaf = certificate(Form("R&D"), caller.key.public_key(), ca)
    with Emulator(with_mappings(ca, {})) as emulator:
        assert create_session(emulator, Caller(caller.key, leaf)).status == 403
        assert "source identity" in emulator.requests[0].reason


def test_name_that_can_t_become_a_session_tag_is_refused(caller: Caller) -> None:
    ca = authority(Form("R&D", ca=True, usages=("key_cert_sign",)))
    form = alternative(x509.DNSName("*"), x509.UniformResourceIdentifier("a:?b"), inner="a;b")
    form = replace(form, name="x\u200b")
    with Emulator(World.simple(ca.certificate)) as emulator:
        leaf = certificate(form, caller.key.public_key(), ca)
        reply = create_session(emulator, Caller(caller.key, leaf))
        assert reply.json["message"] == (
            f"Unable to assume role for {emulator.role_arn}. Some attributes failed to be mapped into session tags. "
            "Issuer: [ CN ]; Subject: [ CN ]; SAN: [ DNS, URI, Name/CN ]"
        )


def test_role_with_a_path_and_reserved_characters_is_accepted(emulator: Emulator, caller: Caller) -> None:
    arn = "arn:aws:iam::123456789012:role/team/a+b@c,d"
    emulator.world.roles[arn] = Role(arn)
    emulator.world.profiles[emulator.profile_arn].roles.append(arn)
    reply = create_session(emulator, caller, arns={**draft(emulator, caller).arns, "roleArn": arn})
    assert "assumed-role/a+b@c,d/" in reply.json["credentialSet"][0]["assumedRoleUser"]["arn"]


@pytest.mark.parametrize("path", ["//sessions", "/a%20b/sessions", "/./sessions", "/%2Fx/../sessions/"])
def test_session_path_is_matched_as_sent(emulator: Emulator, caller: Caller, path: str) -> None:
    emulator.world.session_path = path
    assert create_session(emulator, caller, path=path).status == 201
    assert send(emulator, draft(emulator, caller).signed()).status == 404
