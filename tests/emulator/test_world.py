"""Worlds: simple ones, and those read from TOML."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certs import Authority, make_ca
from emulator.client import Caller, create_session, draft, send
from hwsigner.emulator import KINDS, Emulator, Role, TrustAnchor, World, load_world
from hwsigner.errors import CertificateError, ConfigError, UsageError

UUID = "11111111-2222-4333-8444-555555555555"
PREFIX = "arn:aws:rolesanywhere:eu-central-1:210987654321"
TOML = f"""
session_path = "/sessions"
rate = 2.5

[[trust_anchor]]
arn = "{PREFIX}:trust-anchor/{UUID}"
certificates = ["ca.pem", "other/ca.der"]

[[profile]]
arn = "{PREFIX}:profile/{UUID}"
roles = ["arn:aws:iam::210987654321:role/build"]
duration_seconds = 7200
accept_role_session_name = true
attribute_mappings = {{ x509Subject = ["CN"] }}

[[role]]
arn = "arn:aws:iam::210987654321:role/build"
max_session_duration = 43200
principal_tags = {{ "x509Subject/CN" = "bamboo-01" }}
trust_policy = "other/policy.json"
"""
POLICY = {
    "Effect": "Allow",
    "Principal": {"Service": "rolesanywhere.amazonaws.com"},
    "Action": "sts:*",
    "Condition": {"ArnEquals": {"aws:SourceArn": f"{PREFIX}:trust-anchor/{UUID}"}},
}


@pytest.fixture
def config(tmp_path: Path, ca: Authority) -> Path:
    (tmp_path / "other").mkdir()
    (tmp_path / "ca.pem").write_bytes(make_ca("Other").pem)
    (tmp_path / "other" / "ca.der").write_bytes(ca.certificate.public_bytes(Encoding.DER))
    (tmp_path / "other" / "policy.json").write_text(json.dumps({"Statement": POLICY}))
    path = tmp_path / "world.toml"
    path.write_text(TOML)
    return path


def test_config_file_defines_the_whole_world(config: Path, caller: Caller) -> None:
    with Emulator(load_world(config)) as emulator:
        body = b'{"roleSessionName":"mine","durationSeconds":7200}'
        reply = create_session(emulator, caller, body=body, region="eu-central-1")
        assert reply.json["credentialSet"][0]["assumedRoleUser"]["arn"] == (
            "arn:aws:sts::210987654321:assumed-role/build/mine"
        )


@pytest.mark.parametrize("kind", ["trust_anchor", "profile"])
def test_config_file_can_disable_a_resource(config: Path, caller: Caller, kind: str) -> None:
    config.write_text(TOML.replace(f"[[{kind}]]", f"[[{kind}]]\nenabled = false"))
    with Emulator(load_world(config)) as emulator:
        assert create_session(emulator, caller, region="eu-central-1").status == 403


@pytest.mark.parametrize(("kind", "name"), [("trust_anchor", "trust-anchor"), ("profile", "profile")])
def test_config_file_can_give_a_name_and_an_alias(config: Path, caller: Caller, kind: str, name: str) -> None:
    config.write_text(TOML.replace(f"[[{kind}]]", f'[[{kind}]]\nname = "Office"\nalias = "office"'))
    with Emulator(load_world(config)) as emulator:
        named = [*emulator.world.trust_anchors.values(), *emulator.world.profiles.values()]
        assert "Office" in [each.name for each in named]
        made = draft(emulator, caller, region="eu-central-1")
        parameter = {"trust_anchor": "trustAnchorArn", "profile": "profileArn"}[kind]
        made.arns[parameter] = f"{PREFIX}:alias/{name}/office"
        assert send(emulator, made.signed()).status == 201


@pytest.mark.parametrize("alias", ["", "1", "a/"])
def test_config_file_is_refused_when_an_alias_is_malformed(config: Path, alias: str) -> None:
    config.write_text(TOML.replace("[[profile]]", f'[[profile]]\nalias = "{alias}"'))
    with pytest.raises(ConfigError, match=r"an invalid profile\.alias"):
        load_world(config)


def test_config_file_can_set_the_path(config: Path, caller: Caller) -> None:
    config.write_text(TOML.replace('"/sessions"', '"/a%20b/sessions"'))
    with Emulator(load_world(config)) as emulator:
        assert create_session(emulator, caller, region="eu-central-1", path="/a%20b/sessions").status == 201


BAD = {
    "no TOML": ("= 1", "can't be read as TOML"),
    "deep TOML": (f"a = {'[' * 3000}{']' * 3000}", "can't be read as TOML"),
    "a long number": (f"a = {'9' * 5000}", "can't be read as TOML"),
    "a NUL in a path": (TOML.replace('certificates = ["', 'certificates = ["\\u0000'), "that can't be read"),
    "an unknown table": (TOML + "[[user]]\n", "unknown key user"),
    "an unknown key": (TOML + "durations = 1\n", "unknown key role.durations"),
    "text for a number": (TOML.replace("7200", '"7200"'), "wrong type for profile.duration_seconds"),
    "true for a number": (TOML.replace("7200", "true"), "wrong type for profile.duration_seconds"),
    "a number among the roles": (TOML.replace("roles = [", "roles = [1, "), "wrong type for profile.roles"),
    "a number for a tag": (TOML.replace('"bamboo-01"', "1"), "wrong type for role.principal_tags"),
    "no certificates": (TOML.replace("certificates", "#"), "[[trust_anchor]] without certificates"),
    "no trust anchor": (TOML.replace("[[trust_anchor]]", "[[role]]"), "no [[trust_anchor]] table"),
    "a table that is not repeated": (TOML.replace("[[profile]]", "[profile]"), "no [[profile]] table"),
    "the ARN of a profile": (TOML.replace(":trust-anchor/", ":profile/"), "an invalid trust_anchor.arn"),
    "a certificate that is not there": (TOML.replace("ca.pem", "none.pem"), "none.pem"),
    "a certificate that is none": (TOML.replace("ca.pem", "world.toml"), "world.toml"),
    "a trust policy that is not there": (TOML.replace("policy.json", "none.json"), "none.json can't be read"),
    "an empty trust policy path": (TOML.replace("other/policy.json", ""), "can't be read"),
    "a trust policy that is none": (
        TOML.replace("policy.json", "ca.der"),
        "other/ca.der: the trust policy is not JSON",
    ),
    "a table for a trust policy": (TOML.replace('"other/policy.json"', "{}"), "wrong type for role.trust_policy"),
    "a mapping of an unknown field": (TOML.replace("x509Subject = [", "x509Serial = ["), "mapping x509Serial = ['CN']"),
    "an unknown mapping": (TOML.replace('["CN"]', '["CN", "XX"]'), "mapping x509Subject = ['CN', 'XX'] is not known"),
    "a mapping of all SANs": (TOML.replace('x509Subject = ["CN"]', 'x509SAN = ["*"]'), "x509SAN = ['*'] is not known"),
    "a mapping that is no list": (TOML.replace('["CN"]', '"CN"'), "mapping x509Subject = 'CN' is not known"),
    "a rate that is none": (TOML.replace("rate = 2.5", "rate = 0"), "rate"),
    "a path that is none": (TOML.replace('"/sessions"', '"sessions"'), "session_path"),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_config_file_is_refused_with_its_path(config: Path, case: str) -> None:
    text, words = BAD[case]
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_world(config)
    assert words in caught.value.message
    assert str(config.parent if "trust policy" in case and "table" not in case else config) in caught.value.message


def test_trust_policy_of_the_config_file_is_judged(config: Path, caller: Caller) -> None:
    (config.parent / "other" / "policy.json").write_text(json.dumps({"Statement": {**POLICY, "Effect": "Deny"}}))
    with Emulator(load_world(config)) as emulator:
        assert create_session(emulator, caller, region="eu-central-1").status == 403
        assert emulator.requests[0].reason.endswith("statement 1 denies it")


@pytest.mark.parametrize(("principal", "words"), [("*", "IAM refuses such a trust policy"), ({"Service": "*"}, "Serv")])
def test_trust_policy_that_iam_refuses_is_refused(config: Path, principal: object, words: str) -> None:
    path = config.parent / "other" / "policy.json"
    path.write_text(json.dumps({"Statement": {**POLICY, "Principal": principal}}))
    with pytest.raises(ConfigError, match=words) as caught:
        load_world(config)
    assert str(path) in caught.value.message


def test_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_world(tmp_path / "none.toml")


def test_simple_world_has_fixed_arns(ca: Authority) -> None:
    world = World.simple([ca.pem, ca.certificate], region="us-gov-west-1", account="210987654321")
    prefix = "arn:aws-us-gov:rolesanywhere:us-gov-west-1:210987654321"
    assert list(world.trust_anchors) == [
        f"{prefix}:trust-anchor/00000000-0000-4000-8000-00000000000{n}" for n in (0, 1)
    ]
    assert list(world.profiles) == [f"{prefix}:profile/11111111-1111-4111-8111-111111111111"]
    assert list(world.roles) == ["arn:aws-us-gov:iam::210987654321:role/hwsigner-demo"]


@pytest.mark.parametrize(
    ("region", "partition"),
    [("cn-north-1", "aws-cn"), ("eusc-de-east-1", "aws-eusc"), ("us-gov-east-1", "aws-us-gov"), ("eu-west-1", "aws")],
)
def test_arns_have_the_partition_of_the_region(ca: Authority, caller: Caller, region: str, partition: str) -> None:
    with Emulator(World.simple(ca.pem, region=region)) as emulator:
        reply = create_session(emulator, caller, region=region)
        assert reply.json["credentialSet"][0]["assumedRoleUser"]["arn"].startswith(f"arn:{partition}:sts::")
        assert reply.json["subjectArn"].startswith(f"arn:{partition}:rolesanywhere:{region}:")


@pytest.mark.parametrize(
    ("region", "account"), [("nowhere", "123456789012"), ("us-east-1", "1"), ("us-east-1", "12345678901x")]
)
def test_simple_world_refuses_an_invalid_region_or_account(ca: Authority, region: str, account: str) -> None:
    with pytest.raises(UsageError, match="no such region or account"):
        World.simple(ca.pem, region=region, account=account)


def test_simple_world_requires_a_trust_anchor() -> None:
    with pytest.raises(UsageError, match="no trust anchor"):
        World.simple([])


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\n"])
def test_trust_anchor_is_refused_when_it_is_not_a_certificate(text: bytes) -> None:
    with pytest.raises(CertificateError):
        World.simple(text)


def test_defaults_equal_those_of_the_service(ca: Authority) -> None:
    profile = next(iter(World.simple(ca.pem).profiles.values()))
    assert (profile.duration_seconds, profile.accept_role_session_name, profile.enabled) == (3600, False, True)
    assert Role("x").max_session_duration == 3600
    assert TrustAnchor("x", []).enabled


def test_documented_config_example_is_valid(config: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "emulator.md").read_text()
    config.write_text(text.partition("```toml\n")[2].partition("```")[0])
    (config.parent / "trust-policy.json").write_text(text.partition("```json\n")[2].partition("```")[0])
    world = load_world(config)
    assert [len(each) for each in (world.trust_anchors, world.profiles, world.roles)] == [1, 1, 1]


def test_documentation_lists_every_fault_and_parameter() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "emulator.md").read_text()
    for name, kind in KINDS.items():
        row = next(line for line in text.splitlines() if line.startswith("| `") and f"`{name}`" in line)
        for parameter in kind.parameters:
            assert parameter.replace("_", "-") in row
