"""`hwsigner aws template`: cfn-lint, botocore's models and a parser of HCL judge what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import validate_parameters
from hcl2.api import loads

import certs
from hwsigner.trust_policy import TrustPolicy, request_context
from scene import Outcome, Scene

ANCHOR = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"


@pytest.fixture
def ca_file(scene: Scene) -> Path:
    return scene.write("ca.pem", scene.ca.pem)


@pytest.fixture
def template(scene: Scene, ca_file: Path) -> Callable[..., Outcome]:
    def printed(kind: str, *arguments: str) -> Outcome:
        return scene.call("aws", "template", kind, f"--ca={ca_file}", "--role=web", *arguments)

    return printed


def resources(outcome: Outcome) -> dict[str, Any]:
    assert outcome.status == 0, outcome.err
    return {name: each["Properties"] for name, each in json.loads(outcome.out)["Resources"].items()}


def parse(text: str) -> dict[str, Any]:
    """Parse HCL."""
    parsed: dict[str, Any] = loads(f"{text}\n")
    return parsed


def refusal(policy: dict[str, Any], **tags: str) -> str:
    request = request_context(
        trust_anchor=ANCHOR,
        tags={f"x509Subject/{name}": value for name, value in tags.items()},
        session_name="01",
        source_identity="CN=any",
        now=datetime.now(UTC),
    )
    return TrustPolicy(policy).refusal(request)


@pytest.mark.slow
@pytest.mark.parametrize("duration", ["900", "43200"])
def test_cfn_lint_finds_nothing_in_the_cloudformation_template(
    template: Callable[..., Outcome], tmp_path: Path, duration: str
) -> None:
    path = tmp_path / "web.json"
    outcome = template("cloudformation", f"--duration={duration}", "--match=CN=bamboo-*,OU=devops")
    path.write_text(outcome.out)
    program = Path(sys.executable).with_name("cfn-lint")
    command = [str(program), "--include-checks=I", "--regions=eu-central-1", "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("duration", [900, 3600, 43200])
def test_cloudformation_resources_are_what_the_apis_take(template: Callable[..., Outcome], duration: int) -> None:
    made = resources(template("cloudformation", f"--duration={duration}", "--match=CN=web"))
    assert made["Role"]["MaxSessionDuration"] >= duration
    made["Role"]["AssumeRolePolicyDocument"] = json.dumps(made["Role"]["AssumeRolePolicyDocument"])
    made["Profile"]["RoleArns"] = ["arn:aws:iam::123456789012:role/web"]
    source = made["TrustAnchor"]["Source"]
    made["TrustAnchor"]["Source"] = {
        "sourceType": source["SourceType"],
        "sourceData": {"x509CertificateData": source["SourceData"]["X509CertificateData"]},
    }
    session = botocore.session.get_session()
    for service, call, name in (
        ("rolesanywhere", "CreateTrustAnchor", "TrustAnchor"),
        ("rolesanywhere", "CreateProfile", "Profile"),
        ("iam", "CreateRole", "Role"),
    ):
        shape = session.get_service_model(service).operation_model(call).input_shape
        names = {member.lower(): member for member in shape.members}
        validate_parameters({names[key.lower()]: value for key, value in made[name].items()}, shape)


def test_cloudformation_template_has_the_ca_the_policy_and_what_is_enabled(
    scene: Scene, template: Callable[..., Outcome]
) -> None:
    made = resources(template("cloudformation", str(scene.leaf), "--match=CN,OU=devops"))
    assert made["TrustAnchor"]["Enabled"] is made["Profile"]["Enabled"] is True
    assert made["TrustAnchor"]["Source"]["SourceData"]["X509CertificateData"].encode() == scene.ca.pem
    policy = made["Role"]["AssumeRolePolicyDocument"]
    source = policy["Statement"][0]["Condition"]["ArnEquals"]
    assert source["aws:SourceArn"] == {"Fn::GetAtt": ["TrustAnchor", "TrustAnchorArn"]}
    source["aws:SourceArn"] = ANCHOR
    assert refusal(policy, CN="bamboo-01", OU="devops") == ""
    assert "x509Subject/OU 'devops', but it is 'ops'" in refusal(policy, CN="bamboo-01", OU="ops")
    outputs = json.loads(template("cloudformation", "--match=CN=web").out)["Outputs"]
    assert set(outputs) == {"TrustAnchorArn", "ProfileArn", "RoleArn"}


@pytest.mark.slow
def test_terraform_configuration_has_the_same_resources(template: Callable[..., Outcome]) -> None:
    arguments = ("--name=web servers", "--duration=7200", "--match=CN=bamboo-*,CN=wéb,OU=devops")
    outcome, expected = template("terraform", *arguments), resources(template("cloudformation", *arguments))
    assert outcome.status == 0, outcome.err
    parsed = parse(outcome.out)
    anchor, role, profile = (
        *(parsed["resource"][0]["aws_rolesanywhere_trust_anchor"]["role_web"],),
        *(parsed["resource"][1]["aws_iam_role"]["role_web"],),
        *(parsed["resource"][2]["aws_rolesanywhere_profile"]["role_web"],),
    )
    [source] = anchor.pop("source")
    [data] = source.pop("source_data")
    pem = expected["TrustAnchor"]["Source"]["SourceData"]["X509CertificateData"]
    assert data["x509_certificate_data"].splitlines() == pem.splitlines()
    assert source == {"source_type": "CERTIFICATE_BUNDLE"}
    assert anchor == {"name": "web servers", "enabled": True}
    policy = role.pop("assume_role_policy")
    assert role == {"name": "web", "max_session_duration": 7200}
    assert profile == {
        "name": "web servers",
        "enabled": True,
        "duration_seconds": 7200,
        "role_arns": ["${aws_iam_role.role_web.arn}"],
    }
    document = expected["Role"]["AssumeRolePolicyDocument"]
    reference = "${aws_rolesanywhere_trust_anchor.role_web.arn}"
    document["Statement"][0]["Condition"]["ArnEquals"]["aws:SourceArn"] = reference
    assert json.loads(policy.removeprefix("${jsonencode(").removesuffix(")}")) == document
    assert [name for each in parsed["output"] for name in each] == ["trust_anchor_arn", "profile_arn", "role_arn"]


def test_role_has_the_permissions_boundary_that_is_given(template: Callable[..., Outcome]) -> None:
    boundary = "arn:aws:iam::123456789012:policy/limits"
    arguments = ("--match=CN=web", f"--permissions-boundary={boundary}")
    assert resources(template("cloudformation", *arguments))["Role"]["PermissionsBoundary"] == boundary
    role = parse(template("terraform", *arguments).out)["resource"][1]["aws_iam_role"]["role_web"]
    assert role["permissions_boundary"] == boundary
    assert template("terraform", "--match=CN=web", "--permissions-boundary=limits").status == 2


def test_terraform_escapes_what_would_be_a_template() -> None:
    from hwsigner._control_plane.templates import _hcl

    assert _hcl({"a": '${*} %{ "\\'}) == '{\n  "a" = "$${*} %%{ \\"\\\\"\n}'


def test_role_name_of_any_characters_gives_a_valid_label(scene: Scene, ca_file: Path) -> None:
    arguments = (f"--ca={ca_file}", "--role=7+web=,.@-_x", "--name=seven", "--match=CN=web")
    parsed = parse(scene.call("aws", "template", "terraform", *arguments).out)
    assert parsed["resource"][1]["aws_iam_role"]["role_7_web______x"]["name"] == "7+web=,.@-_x"


def test_stderr_says_who_may_assume_the_role_and_that_it_has_no_permissions(template: Callable[..., Outcome]) -> None:
    err = template("terraform", "--match=CN=web").err
    assert "this role lets in every certificate of the trust anchor with x509Subject/CN 'web'" in err
    assert "the role web has no permissions yet" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cloudformation", "--role=web", "--match=CN=web"], "--ca is missing"),
        (["cloudformation", "--ca=CA", "--match=CN=web"], "--role is missing"),
        (["pulumi", "--ca=CA", "--role=web", "--match=CN=web"], "there is no template for 'pulumi'"),
        (["terraform", "--ca=CA", "--role=a b", "--match=CN=web"], "'a b' is not a role's name"),
        (["terraform", "--ca=CA", "--role=web", "--name=a/b", "--match=CN=web"], "'a/b' is not a name"),
        (["terraform", "--ca=CA", "--role=web", "--match=CN=λ"], "x509Subject/CN has 'λ', and a policy of IAM has no"),
        (["terraform", "--ca=CA", "--role=web"], "CN has no value, and there is no certificate"),
        (["terraform", "--ca=CA", "--role=web", "--match=CN=web", "--duration=60"], "--duration is"),
    ],
)
def test_missing_or_invalid_argument_is_a_usage_error(
    call: Callable[..., Outcome], ca_file: Path, arguments: list[str], words: str
) -> None:
    outcome = call("aws", "template", *(argument.replace("=CA", f"={ca_file}") for argument in arguments))
    assert (outcome.status, outcome.out) == (2, "")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_leaf_as_the_ca_is_an_error(scene: Scene) -> None:
    outcome = scene.call("aws", "template", "terraform", f"--ca={scene.leaf}", "--role=web", "--match=CN=web")
    assert (outcome.status, outcome.out) == (4, "")
    assert "is not a CA certificate" in outcome.err
    assert str(scene.leaf) in outcome.err


def test_bundle_that_aws_would_refuse_is_an_error(scene: Scene) -> None:
    more = [certs.make_ca(name) for name in ("Second CA", "Third CA")]
    bare = certs.issue(scene.ca, more[0].key.public_key(), certs.Shape("Bare CA", is_ca=True, digital_signature=None))
    for name, data, words in (
        ("three.pem", b"".join(each.pem for each in (scene.ca, *more)), "has 3 CA certificates"),
        ("bare.pem", certs.pem(bare), "has no keyUsage"),
    ):
        ca = scene.write(name, data)
        outcome = scene.call("aws", "template", "cloudformation", f"--ca={ca}", "--role=web", "--match=CN=web")
        assert (outcome.status, outcome.out) == (4, "")
        assert words in outcome.err


def test_bundle_of_two_cas_is_kept(scene: Scene) -> None:
    two = scene.write("two.pem", scene.ca.pem + certs.make_ca("Second CA").pem)
    outcome = scene.call("aws", "template", "cloudformation", f"--ca={two}", "--role=web", "--match=CN=web")
    data = resources(outcome)["TrustAnchor"]["Source"]["SourceData"]["X509CertificateData"]
    assert data.encode() == two.read_bytes()
