"""CreateSession obeys what the control plane was told, and the control plane shows who asked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certs import Authority, issue, make_ca, pem
from emulator.client import Caller, create_session, draft, send
from emulator.material import Form, certificate
from emulator.planes import refused
from emulator.test_control_crls import crl_of
from hwsigner.emulator import Emulator
from hwsigner.trust_policy import TrustPolicy

DENIED = "Unable to assume role for "
URI = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://example/web")])


def caller_of(ca: Authority, form: Form) -> Caller:
    key = ec.generate_private_key(ec.SECP256R1())
    return Caller(key, certificate(form, key.public_key(), ca))


def outcome(emulator: Emulator, caller: Caller, arns: dict[str, str] | None = None, **body: Any) -> tuple[int, str]:
    """Ask for a session, and return the status and the message."""
    made = draft(emulator, caller, body=json.dumps(body).encode())
    made.arns.update(arns or {})
    reply = send(emulator, made.signed())
    return reply.status, reply.json.get("message", "")


def trust(condition: dict[str, Any]) -> TrustPolicy:
    """Return a trust policy for Roles Anywhere with a condition."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "rolesanywhere.amazonaws.com"},
        "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
        "Condition": condition,
    }
    return TrustPolicy({"Version": "2012-10-17", "Statement": [statement]})


def test_session_is_made_by_alias_arns_and_judged_by_the_arn_with_the_id(
    plane: Any, emulator: Emulator, caller: Caller
) -> None:
    anchor = plane.update_trust_anchor(trustAnchorId=emulator.trust_anchor_arn, aliasName="a/b")["trustAnchor"]
    profile = plane.update_profile(profileId=emulator.profile_arn, aliasName="p")["profile"]
    aliases = {"trustAnchorArn": anchor["aliasArn"], "profileArn": profile["aliasArn"]}
    assert outcome(emulator, caller, aliases)[0] == 201
    plane.update_trust_anchor(trustAnchorId=emulator.trust_anchor_arn, aliasName="")
    assert outcome(emulator, caller, aliases) == (403, "Specified Trust Anchor wasn't found.")


@pytest.mark.parametrize("alias", ["1a", "a/", "a//b", "", "a" * 257])
def test_session_is_refused_when_an_alias_arn_is_malformed(emulator: Emulator, caller: Caller, alias: str) -> None:
    arn = emulator.trust_anchor_arn.rpartition(":")[0] + f":alias/trust-anchor/{alias}"
    assert outcome(emulator, caller, {"trustAnchorArn": arn})[0] == 400


def test_subject_shows_each_certificate_and_its_last_attempt(
    plane: Any, emulator: Emulator, ca: Authority, caller: Caller
) -> None:
    assert plane.list_subjects()["subjects"] == []
    arn = create_session(emulator, caller).json["subjectArn"]
    (summary,) = plane.list_subjects()["subjects"]
    assert summary["subjectArn"] == arn
    assert summary["x509Subject"] == caller.certificate.subject.rfc4514_string()
    key = ec.generate_private_key(ec.SECP256R1())
    renewed = Caller(key, issue(ca, key.public_key()))
    assert renewed.certificate.subject == caller.certificate.subject
    assert outcome(emulator, renewed, roleSessionName="mine")[0] == 403
    subject = plane.get_subject(subjectId=summary["subjectId"])["subject"]
    assert subject["createdAt"] == summary["createdAt"] <= summary["lastSeenAt"] < subject["lastSeenAt"]
    assert [(each["serialNumber"], each["failed"]) for each in subject["credentials"]] == [
        (str(caller.certificate.serial_number), False),
        (str(renewed.certificate.serial_number), True),
    ]
    assert subject["credentials"][0]["x509CertificateData"] == pem(caller.certificate).decode()
    assert subject["credentials"][0]["issuer"] == ca.certificate.subject.rfc4514_string()


def test_subject_shows_the_instance_properties_of_the_last_request(
    plane: Any, emulator: Emulator, caller: Caller
) -> None:
    for rack in ("1", "2"):
        assert outcome(emulator, caller, instanceProperties={"rack": rack})[0] == 201
    identifier = plane.list_subjects()["subjects"][0]["subjectId"]
    (entry,) = plane.get_subject(subjectId=identifier)["subject"]["instanceProperties"]
    assert (entry["properties"], entry["failed"]) == ({"rack": "2"}, False)


def test_emulator_keeps_a_bounded_number_of_subjects_and_certificates(
    emulator: Emulator, ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwsigner.emulator.sessions.MAX_SUBJECTS", 2)
    monkeypatch.setattr("hwsigner.emulator.sessions.MAX_CERTIFICATES", 2)
    for name in ("a", "b", "c", "c", "c"):
        assert outcome(emulator, caller_of(ca, Form(name)))[0] == 201
    known = {each.x509_subject[:4]: len(each.credentials) for each in emulator.world.subjects.values()}
    assert known == {"CN=b": 1, "CN=c": 2}


def test_certificate_that_is_not_trusted_leaves_no_subject(plane: Any, emulator: Emulator) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert outcome(emulator, Caller(key, issue(make_ca("Other"), key.public_key())))[0] == 403
    assert plane.list_subjects()["subjects"] == []
    assert refused(plane.get_subject, subjectId=emulator.profile_arn[-36:])[0] == "ResourceNotFoundException"


def enable_tip(plane: Any, emulator: Emulator, **more: str) -> None:
    plane.update_profile(profileId=emulator.profile_arn, tipConfiguration={"status": "ENABLED", **more})


@pytest.mark.parametrize(
    ("settings", "subject"),
    [({}, "bamboo-01"), ({"subjectSource": "x509SAN/URI"}, "spiffe://example/web")],
)
def test_origin_identity_is_the_field_that_the_profile_names(
    plane: Any, emulator: Emulator, ca: Authority, settings: dict[str, str], subject: str
) -> None:
    caller = caller_of(ca, Form("bamboo-01", extensions=((URI, False),)))
    role = emulator.world.roles[emulator.role_arn]
    role.trust_policy = trust({"StringEquals": {"aws:OriginIdentity/Subject": subject}})
    assert outcome(emulator, caller) == (403, f"{DENIED}{role.arn}")
    assert "aws:OriginIdentity/Subject" in emulator.requests[-1].reason
    enable_tip(plane, emulator, **settings)
    assert outcome(emulator, caller)[0] == 201
    role.trust_policy = trust({"StringEquals": {"aws:OriginIdentity/SubjectType": "workload"}})
    assert outcome(emulator, caller)[0] == 403
    enable_tip(plane, emulator, subjectType="workload", **settings)
    assert outcome(emulator, caller)[0] == 201
    plane.update_profile(profileId=emulator.profile_arn, tipConfiguration={"status": "DISABLED"})
    assert outcome(emulator, caller)[0] == 403


def test_session_is_denied_when_the_certificate_lacks_the_field_of_its_origin_identity(
    plane: Any, emulator: Emulator, ca: Authority
) -> None:
    nameless = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "devops")])
    for form, settings in ((Form(nameless), {}), (Form(), {"subjectSource": "x509SAN/URI"})):
        caller = caller_of(ca, form)
        enable_tip(plane, emulator, **settings)
        assert outcome(emulator, caller) == (403, f"{DENIED}{emulator.role_arn}")
        assert "is not in the certificate or not mapped" in emulator.requests[-1].reason


@pytest.mark.parametrize("key", ["aws:OriginIdentity/Issuer", "aws:OriginIdentity/FederatedProviderArn"])
def test_key_of_other_federations_is_known_and_missing(
    plane: Any, emulator: Emulator, caller: Caller, key: str
) -> None:
    enable_tip(plane, emulator)
    role = emulator.world.roles[emulator.role_arn]
    role.trust_policy = trust({"StringLike": {key: "*"}})
    assert outcome(emulator, caller)[0] == 403
    assert f"requires StringLike {key} '*', but the request does not have it" in emulator.requests[-1].reason
    role.trust_policy = trust({"Null": {key: "true"}})
    assert outcome(emulator, caller)[0] == 201


def test_example_of_the_documentation_runs(
    ca: Authority, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "emulator.md").read_text()
    (example,) = re.findall(r"```python\n(from pathlib import Path\n\nimport boto3\n.*?)```", page, re.DOTALL)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    (tmp_path / "crl.pem").write_bytes(crl_of(ca))
    monkeypatch.chdir(tmp_path)
    emulators: dict[str, Any] = {}

    def call_your_client(url: str, anchor: str, profile: str, role: str) -> None:
        arns = {"trustAnchorArn": anchor, "profileArn": profile, "roleArn": role}
        assert outcome(emulators["emulator"], caller, arns)[0] == 201

    emulators["call_your_client"] = call_your_client
    exec(example, emulators)
    assert caller.certificate.subject.rfc4514_string() in capsys.readouterr().out
