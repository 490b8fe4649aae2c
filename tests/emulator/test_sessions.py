"""CreateSession: granted sessions and their properties."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certs import Authority, issue
from emulator.client import Caller, create_session, draft, send
from emulator.conftest import KEYS
from emulator.material import DAY, Form, authority, certificate
from hwsigner._identity.certificate_request import parse_name
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
    assert (found["roleArn"], found["sourceIdentity"]) == (emulator.role_arn, "CN=bamboo-01")
    assert type(found["packedPolicySize"]) is int
    assert re.fullmatch(r"arn:aws:rolesanywhere:us-east-1:123456789012:subject/[0-9a-f-]{36}", reply.json["subjectArn"])
    assert reply.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[0-9a-f-]{36}", reply.headers["x-amzn-requestid"])
    assert reply.headers["date"].endswith(" GMT")


def body(**members: Any) -> bytes:
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    ("members", "profile_seconds", "role_seconds", "lifetime"),
    [
        ({}, 3600, 3600, 3600),
        ({"durationSeconds": 900}, 3600, 3600, 900),
        ({"durationSeconds": 43200}, 43200, 43200, 43200),
        ({"durationSeconds": 7200}, 3600, 3600, 3600),
        ({"durationSeconds": 3600}, 1800, 3600, 1800),
        ({}, 7200, 3600, None),
        ({"durationSeconds": 7200}, 7200, 3600, None),
    ],
)
def test_session_lifetime_follows_request_profile_and_role(
    ca: Authority,
    caller: Caller,
    members: dict[str, int],
    profile_seconds: int,
    role_seconds: int,
    lifetime: int | None,
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    world = World.simple(ca.pem)
    with Emulator(world, clock=lambda: now) as emulator:
        world.profiles[emulator.profile_arn].duration_seconds = profile_seconds
        world.roles[emulator.role_arn].max_session_duration = role_seconds
        reply = create_session(emulator, caller, body=body(**members))
    if lifetime is None:
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
        assert reply.json["message"] == (
            f"Unable to assume role for {emulator.role_arn}. "
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
        )
    else:
        expiration = datetime.strptime(reply.credentials["expiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert expiration - now == timedelta(seconds=lifetime)


@pytest.mark.parametrize("name", ["ab", "a" * 64, "build_7+x=y,z.@-"])
def test_session_name_is_used_when_the_profile_allows_it(ca: Authority, caller: Caller, name: str) -> None:
    with Emulator(World.simple(ca.pem, accept_role_session_name=True)) as emulator:
        reply = create_session(emulator, caller, body=body(roleSessionName=name))
    assert reply.json["credentialSet"][0]["assumedRoleUser"]["arn"].endswith(f"/{name}")


def test_short_serial_gives_a_session_name_of_two_digits(emulator: Emulator, ca: Authority, caller: Caller) -> None:
    leaf = certificate(Form(serial=5), caller.key.public_key(), ca)
    reply = create_session(emulator, Caller(caller.key, leaf))
    assert reply.json["credentialSet"][0]["assumedRoleUser"]["arn"].endswith("/05")


def test_arns_may_be_in_the_body(emulator: Emulator, caller: Caller) -> None:
    made = draft(emulator, caller)
    reply = create_session(emulator, caller, query="", body=body(**made.arns))
    assert reply.status == 201


def test_properties_and_unknown_members_are_accepted(emulator: Emulator, caller: Caller) -> None:
    properties = {str(number).zfill(2): "v" * 200 for number in range(50)}
    assert create_session(emulator, caller, body=body(instanceProperties=properties, other=1)).status == 201


def test_repeated_and_padded_headers_are_verified_as_sent(emulator: Emulator, caller: Caller) -> None:
    extra = (("X-Amz-Note", "  a \t  b "), ("X-Amz-Note", "c"))
    assert create_session(emulator, caller, extra=extra).status == 201


def test_chain_through_an_intermediate_is_accepted(emulator: Emulator, ca: Authority, caller: Caller) -> None:
    first = authority(issuer=ca)
    second = authority(Form("Second", ca=True, usages=("key_cert_sign",), path_length=0), issuer=first)
    leaf = issue(second, caller.key.public_key())
    chain = (second.certificate, first.certificate)
    assert create_session(emulator, Caller(caller.key, leaf, chain)).status == 201


def test_trust_anchor_may_be_an_intermediate_and_be_in_the_chain(ca: Authority, caller: Caller) -> None:
    anchor = authority(issuer=ca)
    below = authority(Form("Below", ca=True, usages=("key_cert_sign",)), issuer=anchor)
    leaf = issue(below, caller.key.public_key())
    with Emulator(World.simple(anchor.certificate)) as emulator:
        for chain in ((below,), (below, anchor)):
            certificates = tuple(each.certificate for each in chain)
            assert create_session(emulator, Caller(caller.key, leaf, certificates)).status == 201


def test_any_certificate_of_any_trust_anchor_is_accepted(ca: Authority, caller: Caller) -> None:
    other = authority()
    expired = Form(ca.certificate.subject, ca=True, usages=("key_cert_sign",), end=-DAY / 2)
    old = Authority(certificate(expired, ca.key.public_key(), None, ca.key), ca.key)
    world = World.simple([other.certificate, old.pem + ca.pem, ca.pem + old.pem])
    with Emulator(world) as emulator:
        for arn, status in zip(world.trust_anchors, (403, 201, 201), strict=True):
            arns = {**draft(emulator, caller).arns, "trustAnchorArn": arn}
            assert create_session(emulator, caller, arns=arns).status == status


NAME = "${aws:PrincipalTag/x509Subject/CN}"
TAGGED = x509.Name(
    [
        x509.NameAttribute(NameOID.COMMON_NAME, "build-7"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "one"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "two"),
    ]
)
ALTERNATIVES = x509.SubjectAlternativeName(
    [
        x509.DNSName("a.example"),
        x509.DNSName("b.example"),
        x509.UniformResourceIdentifier("spiffe://example/x"),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "inner")])),
    ]
)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("x509Subject/CN", "build-7"),
        ("x509Issuer/CN", "Example CA"),
        ("x509SAN/DNS", "a.example"),
        ("x509SAN/URI", "spiffe://example/x"),
        ("x509SAN/Name/CN", "inner"),
    ],
)
def test_role_conditions_on_principal_tags_are_checked(
    emulator: Emulator, ca: Authority, caller: Caller, tag: str, value: str
) -> None:
    leaf = certificate(Form(TAGGED, extensions=((ALTERNATIVES, False),)), caller.key.public_key(), ca)
    for wanted, status in ((value, 201), (f"{value}x", 403)):
        emulator.world.roles[emulator.role_arn].principal_tags = {tag: wanted}
        reply = create_session(emulator, Caller(caller.key, leaf))
        assert reply.status == status
    assert reply.json["message"] == f"Unable to assume role for {emulator.role_arn}"
    assert tag in emulator.requests[-1].reason


def test_values_of_one_name_are_joined_in_one_tag(emulator: Emulator, ca: Authority, caller: Caller) -> None:
    leaf = certificate(Form(TAGGED), caller.key.public_key(), ca)
    for value, status in (("one/two", 201), ("one", 403), ("two", 403), ("two/one", 403)):
        emulator.world.roles[emulator.role_arn].principal_tags = {"x509Subject/OU": value}
        assert create_session(emulator, Caller(caller.key, leaf)).status == status


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("build-7", "CN=build-7"),
        ("x" * 61, f"CN={'x' * 61}"),
        ("x" * 62, "x" * 62),
        ("x" * 64, "x" * 64),
        (x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")]), "ID=0123"),
    ],
)
def test_source_identity_is_the_common_name_or_the_serial_number(
    emulator: Emulator, ca: Authority, caller: Caller, name: x509.Name | str, identity: str
) -> None:
    leaf = certificate(Form(name, serial=0x123), caller.key.public_key(), ca)
    reply = create_session(emulator, Caller(caller.key, leaf))
    assert reply.json["credentialSet"][0]["sourceIdentity"] == identity


CONDITIONS: list[tuple[dict[str, dict[str, str]], bytes, int]] = [
    ({"StringEquals": {"aws:PrincipalTag/x509Subject/OU": "one/two"}}, b"{}", 201),
    ({"StringLike": {"aws:PrincipalTag/x509SAN/URI": "spiffe://example/*"}}, b"{}", 201),
    ({"StringEquals": {"aws:PrincipalTag/x509SAN/DNS": "b.example"}}, b"{}", 403),
    ({"StringEquals": {"sts:SourceIdentity": "CN=build-7", "aws:SourceAccount": "123456789012"}}, b"{}", 201),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:us-east-1:*:trust-anchor/00000000-*"}}, b"{}", 201),
    ({"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:eu-*:*:*"}}, b"{}", 403),
    ({"StringEquals": {"sts:RoleSessionName": "0123"}}, b"{}", 201),
    ({"StringEquals": {"sts:RoleSessionName": "0123"}}, b'{"roleSessionName":"build-7"}', 403),
    ({"StringEquals": {"sts:RoleSessionName": NAME}}, b'{"roleSessionName":"build-7"}', 201),
    ({"StringEquals": {"sts:RoleSessionName": NAME}}, b'{"roleSessionName":"build-8"}', 403),
    ({"DateLessThan": {"aws:CurrentTime": "2020-01-01"}}, b"{}", 403),
    ({"StringEquals": {"aws:username": "build-7"}}, b"{}", 403),
]


@pytest.mark.parametrize(("condition", "body", "status"), CONDITIONS, ids=range(len(CONDITIONS)))
def test_trust_policy_judges_the_certificate_and_the_request(
    ca: Authority, caller: Caller, condition: dict[str, dict[str, str]], body: bytes, status: int
) -> None:
    form = Form(TAGGED, extensions=((ALTERNATIVES, False),), serial=0x123)
    leaf = certificate(form, caller.key.public_key(), ca)
    allowing = {"Effect": "Allow", "Principal": {"Service": "rolesanywhere.amazonaws.com"}}
    judged = {**allowing, "Action": "sts:AssumeRole", "Condition": condition}
    others = {**allowing, "Action": ["sts:TagSession", "sts:SetSourceIdentity"]}
    policy = TrustPolicy({"Version": "2012-10-17", "Statement": [judged, others]})
    with Emulator(World.simple(ca.pem, accept_role_session_name=True, trust_policy=policy)) as emulator:
        reply = create_session(emulator, Caller(caller.key, leaf), body=body)
        assert reply.status == status
        if status == 403:
            assert reply.headers["x-amzn-errortype"] == "AccessDeniedException"
            assert reply.json["message"] == f"Unable to assume role for {emulator.role_arn}"
            assert next(iter(next(iter(condition.values())))) in emulator.requests[0].reason


MAPPINGS: list[tuple[dict[str, tuple[str, ...]], str, bool]] = [
    ({"x509Subject": ("*",)}, "x509Subject/CN", True),
    ({"x509Subject": ("*",)}, "x509Issuer/CN", False),
    ({"x509Subject": ("CN",)}, "x509Subject/CN", True),
    ({"x509Subject": ("CN",)}, "x509Subject/OU", False),
    ({"x509Subject": (), "x509Issuer": ("O", "CN")}, "x509Subject/CN", False),
    ({"x509Subject": (), "x509Issuer": ("O", "CN")}, "x509Issuer/CN", True),
    ({"x509SAN": ("DNS", "Name/*")}, "x509SAN/URI", False),
    ({"x509SAN": ("DNS", "Name/*")}, "x509SAN/DNS", True),
    ({"x509SAN": ("DNS", "Name/*")}, "x509SAN/Name/CN", True),
    ({"x509SAN": ("Name",)}, "x509SAN/Name/CN", True),
    ({"x509SAN": ("Name/O",)}, "x509SAN/Name/CN", False),
    ({"x509SAN": ("Name/CN",)}, "x509SAN/Name/CN", True),
    ({}, "x509Subject/CN", False),
]


@pytest.mark.parametrize(("mappings", "tag", "is_mapped"), MAPPINGS)
def test_attribute_mappings_of_the_profile_decide_what_becomes_a_tag(
    ca: Authority, caller: Caller, mappings: dict[str, tuple[str, ...]], tag: str, is_mapped: bool
) -> None:
    leaf = certificate(Form(TAGGED, extensions=((ALTERNATIVES, False),)), caller.key.public_key(), ca)
    absent = {"Null": {f"aws:PrincipalTag/{tag}": "true"}}
    allowing = {"Effect": "Allow", "Principal": {"Service": "rolesanywhere.amazonaws.com"}, "Action": "sts:*"}
    world = World.simple(ca.pem, trust_policy=TrustPolicy({"Statement": {**allowing, "Condition": absent}}))
    world.profiles = {
        arn: Profile(arn, each.roles, attribute_mappings=mappings) for arn, each in world.profiles.items()
    }
    with Emulator(world) as emulator:
        assert create_session(emulator, Caller(caller.key, leaf)).status == (403 if is_mapped else 201)


@pytest.mark.parametrize(("name", "status"), [("CN=build-7,OU=R&D", 201), ("CN=R&D", 403)])
def test_name_that_is_not_mapped_need_not_be_a_tag_unless_it_is_the_source_identity(
    ca: Authority, caller: Caller, name: str, status: int
) -> None:
    world = World.simple(ca.pem)
    [(arn, profile)] = world.profiles.items()
    world.profiles[arn] = Profile(arn, profile.roles, attribute_mappings={})
    leaf = certificate(Form(parse_name(name)), caller.key.public_key(), ca)
    with Emulator(world) as emulator:
        assert create_session(emulator, Caller(caller.key, leaf)).status == status
        assert ("source identity" in emulator.requests[0].reason) == (status == 403)


@pytest.mark.parametrize(
    ("subject", "names", "unmapped"),
    [
        ("R&D", [], "Issuer: [  ]; Subject: [ CN ]; SAN: [  ]"),
        ("Smith (EMP1)", [], "Issuer: [  ]; Subject: [ CN ]; SAN: [  ]"),
        ("x\u200b", [], "Issuer: [  ]; Subject: [ CN ]; SAN: [  ]"),
        ("fine", [x509.DNSName("*.example")], "Issuer: [  ]; Subject: [  ]; SAN: [ DNS ]"),
        ("fine", [x509.UniformResourceIdentifier("a:?b")], "Issuer: [  ]; Subject: [  ]; SAN: [ URI ]"),
        (
            "a,b",
            [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a;b")])), x509.DNSName("*")],
            "Issuer: [  ]; Subject: [ CN ]; SAN: [ DNS, Name/CN ]",
        ),
        ("x", [x509.DNSName("a.example"), x509.DNSName("*.example")], "Issuer: [  ]; Subject: [  ]; SAN: [ DNS/2 ]"),
    ],
)
def test_name_that_can_t_become_a_session_tag_is_refused(
    emulator: Emulator, ca: Authority, caller: Caller, subject: str, names: list[x509.GeneralName], unmapped: str
) -> None:
    extensions = ((x509.SubjectAlternativeName(names), False),) if names else ()
    leaf = certificate(Form(subject, extensions=extensions), caller.key.public_key(), ca)
    reply = create_session(emulator, Caller(caller.key, leaf))
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert reply.json["message"] == (
        f"Unable to assume role for {emulator.role_arn}. Some attributes failed to be mapped into session tags. "
        f"{unmapped}"
    )


def test_issuer_s_names_must_be_tags_too(caller: Caller) -> None:
    ca = authority(Form("R&D", ca=True, usages=("key_cert_sign",)))
    with Emulator(World.simple(ca.certificate)) as emulator:
        reply = create_session(emulator, Caller(caller.key, issue(ca, caller.key.public_key())))
    assert "Issuer: [ CN ]; Subject: [  ]" in reply.json["message"]


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("Größe 7 名前 a_.:/=+-@", []),
        ("x", [x509.DNSName("a.example"), x509.DNSName("b.example"), x509.RFC822Name("a*b@example")]),
    ],
)
def test_other_names_become_tags(
    emulator: Emulator, ca: Authority, caller: Caller, subject: str, names: list[x509.GeneralName]
) -> None:
    extensions = ((x509.SubjectAlternativeName(names), False),) if names else ()
    leaf = certificate(Form(subject, extensions=extensions), caller.key.public_key(), ca)
    assert create_session(emulator, Caller(caller.key, leaf)).status == 201


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
