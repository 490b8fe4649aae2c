"""Each mistake that users make is planted in a sound set-up. `hwsigner doctor` must name it, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import botocore.session
import pytest
from botocore.exceptions import BotoCoreError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import certs
from hwsigner._system.files import read_text
from hwsigner.doctor import sdks
from patients import Patient

Plant = Callable[[Patient], object]

_OTHER_REGION = "arn:aws:rolesanywhere:eu-west-1:123456789012:profile/11111111-2222-4333-8444-555555555555"
_CN_PARTITION = "arn:aws-cn:iam::123456789012:role/web"
_ATTESTATION = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.41482.3.3"), b"\x05\x04\x03")
_CHAIN = [certs.make_ca("CA 0")]
for _number in range(1, 8):
    _CHAIN.append(certs.make_ca(f"CA {_number}", _CHAIN[-1]))


def _named(common_name: str | None, organization: str = "Example") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization, _validate=False)]
    if common_name is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False))
    return x509.Name(attributes)


def _alternatives(*names: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(names)


def _sign_with_sha1(patient: Patient) -> None:
    patient.write("extensions", "keyUsage=digitalSignature")
    patient.openssl("req", "-new", "-key", "web.key", "-subj", "/CN=bamboo-01", "-out", "request.pem")
    signed = ["-extfile", "extensions", "-sha1", "-out", "web.pem"]
    patient.openssl("x509", "-req", "-in", "request.pem", "-signkey", "web.key", *signed)


def _make_version_1(patient: Patient) -> None:
    patient.write("empty", "[req]\ndistinguished_name = dn\n[dn]\n")
    names = ["-config", "empty", "-subj", "/CN=bamboo-01"]
    patient.openssl("req", "-x509v1", *names, "-key", "web.key", "-out", "web.pem")


def _reverse_chain(patient: Patient) -> None:
    leaf = certs.issue(_CHAIN[2], patient.public_key())
    patient.leaf.write_bytes(certs.pem(_CHAIN[1].certificate, _CHAIN[2].certificate, leaf))


def _put_chain_into_two_files(patient: Patient) -> None:
    patient.issue(certs.LEAF, _CHAIN[3])
    path = patient.write("intermediates.pem", certs.pem(_CHAIN[1].certificate))
    patient.change({"intermediates": str(path)})


def _replace_config_by_a_dead_link(patient: Patient) -> None:
    path = patient.folder / ".aws" / "config"
    path.unlink()
    path.symlink_to("/absent")


def _replace_config_by_a_circle(patient: Patient) -> None:
    path = patient.folder / ".aws" / "config"
    path.unlink()
    path.symlink_to("config")


def _install_version_1(patient: Patient) -> None:
    # Version 1 ends at the line, so it must not see it.
    patient.program("aws", "[ $AWS_CONFIG_FILE = /dev/null ] && echo aws-cli/1.42.0 Python/3.13")
    patient.aws_config("[plugins]\ncli_legacy_plugin_path = /opt/plugins\n")


CERTIFICATE: dict[str, tuple[Plant, set[str]]] = {
    "no digitalSignature": (lambda p: p.issue(certs.Shape(digital_signature=False)), {"certificate-key-usage"}),
    "CA leaf": (lambda p: p.issue(certs.Shape(is_ca=True)), {"certificate-ca"}),
    "version 1": (_make_version_1, {"certificate-version", "certificate-key-usage"}),
    "SHA-1": (_sign_with_sha1, {"certificate-hash"}),
    "expired": (
        lambda p: p.issue(certs.Shape(begin=certs.ago(3), end=certs.ago(1))),
        {"certificate-expired"},
    ),
    "last quarter of its life": (
        lambda p: p.issue(certs.Shape(begin=certs.ago(89), end=certs.ago(-0.96))),
        {"certificate-not-renewed"},
    ),
    "issuer without its URL": (lambda p: p.change({"issuer": "est"}), {"issuer-invalid"}),
    "issuer that there is not": (lambda p: p.change({"issuer": "acme"}), {"issuer-invalid"}),
    "issuer whose program is missing": (
        lambda p: p.change({"issuer-command": "/absent/ca --sign"}),
        {"issuer-invalid"},
    ),
    "issuer whose secret is missing": (
        lambda p: p.change({"issuer": "est", "issuer-url": "https://ca.test", "issuer-secret": "file:/absent"}),
        {"issuer-invalid"},
    ),
    "failed renewal": (
        lambda p: p.write("config/hwsigner/.web.hwsigner-enroll", "1 1796046704 1796046764\ncan't connect\n"),
        {"renewal-failed"},
    ),
    "account of serve --pods without its profile": (
        lambda p: p.write("config/hwsigner/pods.toml", '[accounts]\n"team-a/web" = "wbe"\n'),
        {"pods-invalid"},
    ),
    "empty policy of serve --pods": (lambda p: p.write("config/hwsigner/pods.toml", ""), {"pods-invalid"}),
    "not yet valid": (lambda p: p.issue(certs.Shape(begin=certs.ago(-1))), {"certificate-not-yet-valid"}),
    "key mismatch": (
        lambda p: p.issue(public_key=ec.generate_private_key(ec.SECP256R1()).public_key()),
        {"key-mismatch"},
    ),
    "gap in the chain": (lambda p: p.issue(certs.LEAF, _CHAIN[3], _CHAIN[1]), {"chain-gap"}),
    "gap in the chain, in two files": (_put_chain_into_two_files, {"chain-gap"}),
    "chain out of order": (_reverse_chain, {"chain-order"}),
    "more than five intermediates": (lambda p: p.issue(certs.LEAF, *_CHAIN[6:0:-1]), {"chain-too-long"}),
    "empty subject": (lambda p: p.issue_named(x509.Name([])), {"certificate-subject", "name-empty"}),
    "second DNS name": (
        lambda p: p.issue_named(_named("bamboo-01"), _alternatives(x509.DNSName("a"), x509.DNSName("*.b"))),
        {"name-untaggable"},
    ),
    "no CN": (lambda p: p.issue_named(_named(None)), {"name-empty"}),
    "& in a name": (lambda p: p.issue_named(_named("bamboo-01", "Smith & Sons")), {"name-untaggable"}),
    "tag too large": (lambda p: p.issue_named(_named("bamboo-01", "x" * 257)), {"name-untaggable"}),
    "attestation certificate": (
        lambda p: p.issue_named(_named("bamboo-01"), _ATTESTATION),
        {"certificate-attestation"},
    ),
    "certificate is garbage": (lambda p: p.leaf.write_text("garbage"), {"certificate-unreadable"}),
    "certificate is missing": (lambda p: p.leaf.unlink(), {"certificate-unreadable"}),
    "key is missing": (lambda p: p.key.unlink(), {"key-unusable"}),
    "key that others can read": (lambda p: p.key.chmod(0o644), {"setting-unsafe"}),
}

PROFILE: dict[str, tuple[Plant, set[str]]] = {
    "region": (lambda p: p.change({"profile-arn": _OTHER_REGION}), {"arn-region"}),
    "region of the flag": (lambda p: p.change({"region": "eu-west-1"}), {"arn-region"}),
    "account": (lambda p: p.change({"role-arn": "arn:aws:iam::999999999999:role/web"}), {"arn-account"}),
    "partition": (lambda p: p.change({"role-arn": _CN_PARTITION}), {"arn-partition"}),
    "ARNs swapped": (
        lambda p: p.change({"trust-anchor-arn": p.values["profile-arn"], "profile-arn": p.values["trust-anchor-arn"]}),
        {"arn-swapped"},
    ),
    "ARN missing": (lambda p: p.change({"role-arn": None}), {"arn-invalid"}),
    "duration too short": (lambda p: p.change({"session-duration": 600}), {"duration-invalid"}),
    "session name": (lambda p: p.change({"role-session-name": "a b"}), {"session-name-invalid"}),
    "unknown flag": (lambda p: p.change({"role": "x"}), {"profile-invalid"}),
    "unknown flag beside another mistake": (
        lambda p: p.change({"role": "x", "certificate": "/absent.pem"}),
        {"profile-invalid", "certificate-unreadable"},
    ),
    "endpoint": (lambda p: p.change({"endpoint": "http://example.com"}), {"endpoint-invalid"}),
    "endpoint of another region": (
        lambda p: p.change({"endpoint": "https://rolesanywhere.eu-west-1.amazonaws.com"}),
        {"endpoint-region"},
    ),
}

AWS_FILES: dict[str, tuple[Plant, set[str]]] = {
    "~": (lambda p: p.process_line("~/bin/hwsigner credential-process --profile web"), {"process-tilde"}),
    "$": (lambda p: p.process_line("$HOME/bin/hwsigner credential-process --profile web"), {"process-variable"}),
    "backslash": (lambda p: p.process_line(r"C:\hwsigner credential-process"), {"process-backslash"}),
    "no word profile": (lambda p: p.aws_config(f"[web]\ncredential_process = {p.process}\n"), {"config-prefix"}),
    "static section": (
        lambda p: p.write(".aws/credentials", "[web]\naws_access_key_id = AKID\naws_secret_access_key = s\n"),
        {"config-static-keys"},
    ),
    "static keys beside it": (
        lambda p: p.process_line(f"{p.process}\naws_access_key_id = AKID"),
        {"config-other-source"},
    ),
    "another source": (
        lambda p: p.process_line(f"{p.process}\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = x\n[profile x]"),
        {"config-other-source"},
    ),
    "recursion by a command": (
        lambda p: p.process_line(f"{p.program('aws', '')} configure export-credentials --profile web"),
        {"config-recursion"},
    ),
    "recursion by a chain": (
        lambda p: p.aws_config("[profile a]\nsource_profile = b\n[profile b]\nsource_profile = a\n"),
        {"config-recursion"},
    ),
    "plugin line with version 1": (
        _install_version_1,
        {"config-plugin"},
    ),
    "program missing": (lambda p: p.process_line("/opt/absent credential-process"), {"process-missing"}),
    "shim": (
        lambda p: p.process_line(f"{p.program('../.pyenv/shims/hwsigner', '')} credential-process --profile web"),
        {"process-shim"},
    ),
    "file is no INI": (lambda p: p.aws_config("credential_process\n"), {"config-unreadable"}),
    "byte order mark": (
        lambda p: p.aws_config(f"\ufeff[profile web]\ncredential_process = {p.process}\n"),
        {"config-unreadable"},
    ),
    "section twice": (lambda p: p.process_line(f"{p.process}\n[profile web]"), {"config-unreadable"}),
    "setting twice": (lambda p: p.process_line(f"{p.process}\nregion = a\nregion = b"), {"config-unreadable"}),
    "other encoding": (
        lambda p: p.write(".aws/config", (p.folder / ".aws/config").read_text().encode("utf-16")),
        {"config-unreadable"},
    ),
    "one profile by two sections": (
        lambda p: p.process_line(f'{p.process}\n[profile "web"]\nregion = a'),
        {"config-twice"},
    ),
    "dead link": (_replace_config_by_a_dead_link, {"config-missing"}),
    "links in a circle": (_replace_config_by_a_circle, {"config-missing"}),
    "dot for a blank": (
        lambda p: p.aws_config(f"[profile.web]\ncredential_process = {p.process}\n"),
        {"config-prefix"},
    ),
    "name of two words": (
        lambda p: p.aws_config(f"[profile my web]\ncredential_process = {p.process}\n"),
        {"config-prefix"},
    ),
    "word profile in the credentials file": (
        lambda p: p.write(".aws/credentials", "[profile base]\naws_access_key_id = AKID\naws_secret_access_key = s\n"),
        {"config-prefix"},
    ),
    "indented": (
        lambda p: p.aws_config(f"[profile web]\nregion = a\n  credential_process = {p.process}\n"),
        {"config-indented"},
    ),
    "source that there is not": (
        lambda p: p.process_line(f"{p.process}\n[profile x]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = wbe"),
        {"config-source-missing"},
    ),
    "misspelt profile": (
        lambda p: p.process_line(f"{p.folder}/bin/hwsigner credential-process --profile wbe"),
        {"process-command"},
    ),
    "misspelt command": (
        lambda p: p.process_line(f"{p.folder}/bin/hwsigner credential_process --profile web"),
        {"process-command"},
    ),
    "misspelt flag": (
        lambda p: p.process_line(f"{p.folder}/bin/hwsigner credential-process --porfile web"),
        {"process-command"},
    ),
    "neither profile nor flags": (
        lambda p: p.process_line(f"{p.folder}/bin/hwsigner credential-process"),
        {"process-command"},
    ),
    "pipe": (lambda p: p.process_line(f"{p.process} 2>/dev/null | tee log"), {"process-command"}),
    "relative path": (
        lambda p: p.process_line("bin/hwsigner credential-process --profile web"),
        {"process-missing"},
    ),
    "process of the credentials file": (
        lambda p: p.write(".aws/credentials", "[web]\ncredential_process = ~/bin/hwsigner\n"),
        {"process-tilde", "process-command"},
    ),
}


ALL = [
    pytest.param(plant, expected, id=name)
    for table in (CERTIFICATE, PROFILE, AWS_FILES)
    for name, (plant, expected) in table.items()
]


@pytest.mark.parametrize(("plant", "expected"), ALL)
def test_planted_mistake_is_named_alone(plant: Plant, expected: set[str], patient: Patient) -> None:
    plant(patient)
    findings = patient.findings()
    assert {each["id"] for each in findings} == expected
    assert all(each["found"] and each["why"] and each["fix"] for each in findings)


_CREDENTIALS = {
    "Version": 1,
    "AccessKeyId": "AKIDPROCESS",
    "SecretAccessKey": "s",
    "SessionToken": "t",
    "Expiration": "2099-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    "name",
    [
        *("", "~", "$", "backslash", "no word profile", "static section", "program missing", "byte order mark"),
        *("section twice", "setting twice", "one profile by two sections", "dead link", "dot for a blank", "indented"),
    ],
)
def test_botocore_gets_credentials_of_the_process_only_without_the_mistake(name: str, patient: Patient) -> None:
    patient.program("hwsigner", f"echo '{json.dumps(_CREDENTIALS)}'")
    if name:
        AWS_FILES[name][0](patient)
    try:
        credentials = botocore.session.Session(profile="web").get_credentials()
        access_key = credentials.access_key if credentials else ""
    except (BotoCoreError, OSError):
        access_key = ""
    assert (access_key == "AKIDPROCESS") == (not name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}, "environment-keys"),
        ({"HTTPS_PROXY": "socks5://proxy.example:1080"}, "proxy-invalid"),
        ({"AWS_CA_BUNDLE": "/absent.pem"}, "ca-unreadable"),
        ({"AWS_MAX_ATTEMPTS": "many"}, "connection-setting"),
        ({"AWS_ENDPOINT_URL": "https://vpce-1-a.rolesanywhere.eu-west-1.vpce.amazonaws.com"}, "endpoint-region"),
        ({"AWS_PROFILE": "wbe"}, "environment-profile"),
        ({"AWS_CONFIG_FILE": "/absent/config"}, "config-missing"),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"}, "environment-keys"),
    ],
)
def test_planted_variable_is_named(
    variables: dict[str, str], expected: str, patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient.change({"endpoint": None if "AWS_ENDPOINT_URL" in variables else "https://rolesanywhere.example.com"})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert patient.names() == {expected}


def test_variable_in_the_path_of_the_credentials_file_is_replaced_as_botocore_does(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient.write("keys", "[web]\naws_access_key_id = AKID\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "$KEYS/keys")
    monkeypatch.setenv("KEYS", str(patient.folder))
    assert patient.names() == {"config-static-keys"}


def test_each_file_of_the_sdks_is_read_once(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.aws_config(f"[profile web]\ncredential_process = {patient.process}\n")
    read: list[str] = []

    def recorded(path: str) -> tuple[str, os.stat_result]:
        read.append(path)
        return read_text(path)

    monkeypatch.setattr(sdks, "read_text", recorded)
    assert patient.names() == set()
    assert read == [str(patient.folder / ".aws" / name) for name in ("config", "credentials")]


class TestTrustPolicy:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"Action": ["sts:AssumeRole", "sts:SetSourceIdentity"]}, "action-missing"),
            ({"Action": ["sts:AssumeRole", "sts:TagSessions", "sts:SetSourceIdentity"]}, "action-unknown"),
            (
                {"Condition": {"StringEquals": {"aws:PrincipalTag/x509Subject/CN": "$(aws:SourceIdentity}"}}},
                "variable-malformed",
            ),
            ({"Condition": {"StringEquals": {"aws:PrincipalTag/x509Subject/CN": "bamboo-01"}}}, "source-arn-none"),
            ({"Condition": {}}, "condition-none"),
            ({"Principal": {"Service": "ec2.amazonaws.com"}}, "principal-wrong"),
        ],
    )
    def test_planted_mistake_is_named(self, change: dict[str, object], expected: str, patient: Patient) -> None:
        assert expected in patient.names("--policy", patient.policy(**change))

    def test_sound_policy_has_no_findings(self, patient: Patient) -> None:
        assert patient.findings("--policy", patient.policy()) == []

    def test_second_dns_name_is_named(self, patient: Patient) -> None:
        names = _alternatives(x509.DNSName("one.example"), x509.DNSName("two.example"))
        patient.issue_named(_named("bamboo-01"), names)
        condition = {"StringLike": {"aws:PrincipalTag/x509SAN/DNS": "two.*"}}
        found = patient.findings("--policy", patient.policy(Condition=condition))
        assert "one.example first" in next(each["found"] for each in found if each["id"] == "policy-second-name")

    def test_other_name_is_named(self, patient: Patient) -> None:
        name = "web@example.com"
        value = b"\x0c" + bytes([len(name)]) + name.encode()
        upn = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), value)
        patient.issue_named(_named("bamboo-01"), _alternatives(upn))
        condition = {"StringEquals": {"aws:PrincipalTag/x509SAN/URI": name}}
        assert "policy-other-name" in patient.names("--policy", patient.policy(Condition=condition))


@pytest.mark.parametrize(
    ("values", "fix"),
    [
        ({}, "hwsigner install-certificate. After hwsigner enroll web, a timer renews it"),
        ({"issuer-command": "true"}, "systemctl --user enable --now hwsigner-renew@web.timer"),
    ],
)
def test_certificate_in_the_last_quarter_of_its_life_is_named_with_what_renews_it(
    values: dict[str, str], fix: str, patient: Patient
) -> None:
    patient.change(values)
    patient.issue(certs.Shape(begin=certs.ago(74), end=certs.ago(-26)))
    assert patient.findings() == []
    patient.issue(certs.Shape(begin=certs.ago(76), end=certs.ago(-24)))
    (found,) = patient.findings()
    assert "and was not renewed: less than a quarter" in found["found"]
    assert fix in found["fix"]
    assert "HwsignerCertificateExpiring" in found["why"]
    assert patient.names("--online") == {"certificate-not-renewed"}  # A session is possible all the same.


def test_sound_set_up_has_no_findings(patient: Patient) -> None:
    assert patient.findings() == []
    assert patient.findings("--online") == []


def test_nothing_is_asked_of_the_service_without_online(patient: Patient) -> None:
    patient.emulator.requests.clear()
    patient.findings("--policy", patient.policy())
    assert not patient.emulator.requests


@pytest.mark.parametrize("pin", ["pin-value=right", "pin-source=file:{}/pin", "pin-source=cmd:{}/bin/pin", ""])
def test_no_pin_is_used_without_online(pin: str, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.write("pin", "right").chmod(0o600)
    patient.program("pin", "echo right")
    patient.openssl("pkcs8", "-topk8", "-in", "web.key", "-passout", "pass:right", "-out", "locked.key")
    (patient.folder / "locked.key").chmod(0o600)
    patient.change({"private-key": f"file:{patient.folder}/locked.key?{pin.format(patient.folder)}".rstrip("?")})
    # An opened key would show that it is not the certificate's.
    patient.issue(public_key=ec.generate_private_key(ec.SECP256R1()).public_key())
    for flags in ([], ["--online"]):
        if not pin:
            monkeypatch.setenv("HWSIGNER_PIN", "right")  # A command removes it.
        assert ("key-mismatch" in patient.names(*flags)) == bool(flags)


def test_no_secret_is_shown(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDSECRET")
    monkeypatch.setenv("HTTPS_PROXY", "ftp://user:hunter2@proxy")
    uri = f"file:{patient.key}?pin-value=hunter2"
    patient.change({"private-key": uri, "pkcs8-password": "hunter2", "endpoint": None})
    outcome = patient.call("doctor")
    assert outcome.status == 1
    assert not [word for word in ("AKIDSECRET", "hunter2") if word in outcome.out + outcome.err]


def test_key_that_can_be_copied_is_a_fact_and_no_finding(patient: Patient) -> None:
    shown = " ".join(patient.call("doctor").out.split())
    assert f"web: key in the file {patient.key}, from which it can be copied" in shown
    patient.openssl("pkcs8", "-topk8", "-in", "web.key", "-passout", "pass:x", "-out", "locked.key")
    (patient.folder / "locked.key").chmod(0o600)
    patient.change({"private-key": f"{patient.folder}/locked.key"})
    assert patient.findings() == []
    facts = json.loads(patient.call("doctor", "--json").out)["facts"]
    assert facts["web"]["key"] == f"in {patient.folder}/locked.key, from which it can be copied"


def test_endpoint_is_shown_with_what_chose_it(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{patient.emulator.url}/sessions"
    assert f"  web: endpoint {url} (--endpoint)" in patient.call("doctor").out.splitlines()
    patient.change({"endpoint": None})
    patient.aws_config(f"[default]\nuse_fips_endpoint = true\n[profile web]\ncredential_process = {patient.process}\n")
    facts = json.loads(patient.call("doctor", "--json").out)["facts"]
    host = "https://rolesanywhere-fips.us-east-1.amazonaws.com/sessions"
    why = f"region us-east-1 and use_fips_endpoint in [default] of {patient.folder}/.aws/config"
    assert facts["web"]["endpoint"] == f"{host} ({why})"
    patient.change({"use-fips-endpoint": False})
    assert "web: endpoint https://rolesanywhere.us-east-1.amazonaws.com/sessions" in patient.call("doctor").out
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "perhaps")
    assert patient.names() == {"endpoint-invalid"}


def test_text_fits_80_columns_and_names_the_command(patient: Patient) -> None:
    patient.change({"session-duration": 600})
    patient.issue(certs.Shape(digital_signature=False))
    outcome = patient.call("doctor")
    lines = outcome.out.splitlines()
    assert lines[0] == "2 findings: profile web"
    assert "web: duration-invalid" in lines
    assert "  Fix: Run hwsigner profile edit web --session-duration 3600" in lines
    assert not [line for line in lines if len(line) > 80 and " " in line.strip() and str(patient.folder) not in line]


@pytest.mark.parametrize("text", ["[profile.web", "\ufeff[profile.web]\n", "[web]\nregion = 'a'\n"])
def test_config_toml_that_cannot_be_used_is_a_finding_beside_the_others(text: str, patient: Patient) -> None:
    patient.write("config/hwsigner/config.toml", text)
    patient.process_line("~/bin/hwsigner credential-process --profile web")
    outcome = patient.call("doctor", "--json")
    found = [each["id"] for each in json.loads(outcome.out)["findings"]]
    assert (outcome.status, outcome.err) == (1, "")
    assert found[0] == "profiles-unreadable"
    assert "process-tilde" in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("log = 1", "[monitoring] has the key 'log', which is not a flag"),
        ("audit = 'required'", "[monitoring]: audit is required, and there is no audit-log"),
        ("audit-log = 'audit.log'", "[monitoring]: audit-log is 'audit.log', which is not a place for it"),
    ],
)
def test_table_that_no_command_accepts_is_named(text: str, problem: str, patient: Patient) -> None:
    file = patient.folder / "config/hwsigner/config.toml"
    patient.write("config/hwsigner/config.toml", f"{file.read_text()}\n[monitoring]\n{text}\n")
    assert patient.call("credential-process", "--profile", "web").status == 2
    (found,) = patient.findings()
    assert (found["id"], found["found"]) == ("monitoring-invalid", f"{file}: {problem}")


def test_rate_of_audit_lines_without_an_audit_log_is_named(patient: Patient) -> None:
    file = patient.folder / "config/hwsigner/config.toml"
    patient.write("config/hwsigner/config.toml", f"{file.read_text()}\n[monitoring]\naudit-rate = 1\n")
    outcome = patient.call("credential-process", "--profile", "web")
    assert (outcome.status, outcome.err.count("warning: audit-rate has no effect")) == (0, 1)
    (found,) = patient.findings()
    assert (found["id"], found["fix"]) == ("setting-unused", "Set audit-log too, or remove audit-rate")


@pytest.mark.parametrize(("name", "kind"), [("no-such-user", "user"), ("@no-such-group", "group")])
def test_user_that_this_machine_does_not_have_is_named(name: str, kind: str, patient: Patient) -> None:
    patient.change({"allow-users": ["root", "4711", "@root", name]})
    (found,) = patient.findings()
    problem = f"allow-users names '{name}', which is not a {kind} of this system"
    assert (found["id"], found["found"]) == ("setting-unused", problem)


@pytest.mark.parametrize("place", ["pipe", "/dev/zero"])
@pytest.mark.parametrize(
    ("flag", "scheme", "expected"),
    [
        ("certificate", "", "certificate-unreadable"),
        ("intermediates", "file:", "certificate-unreadable"),
        ("private-key", "", "key-unusable"),
        ("private-key", "tpm2:path=", "key-unusable"),
    ],
)
def test_pipe_or_device_is_named_and_not_read(
    flag: str, scheme: str, expected: str, place: str, patient: Patient
) -> None:
    os.mkfifo(patient.folder / "pipe")
    path = patient.folder / place
    patient.change({flag: f"{scheme}{path}"})
    found = {(each["id"], each["found"]) for each in patient.findings()}
    assert (expected, f"{path} is not a regular file") in found


def test_pipe_of_a_selector_is_named_and_not_read(patient: Patient) -> None:
    os.mkfifo(patient.folder / "pipe")
    patient.change({"certificate": None, "private-key": None, "cert-selector": f"file://{patient.folder}/pipe"})
    (found,) = patient.findings()
    assert (found["id"], found["found"]) == ("certificate-unreadable", f"{patient.folder}/pipe is not a regular file")


def test_profile_without_a_key_gets_the_next_step(patient: Patient) -> None:
    patient.change({"certificate": None, "private-key": None})
    (found,) = patient.findings()
    assert found["fix"].startswith("Run hwsigner install-certificate CERTIFICATE KEY-URI --profile web")


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_pipe_of_cas_is_named_and_not_read(variable: str, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(patient.folder / "pipe")
    monkeypatch.setenv(variable, str(patient.folder / "pipe"))
    (found,) = patient.findings()
    assert (found["id"], found["found"]) == ("ca-unreadable", f"{patient.folder}/pipe is not a regular file")


@pytest.mark.slow
@pytest.mark.parametrize("name", [".aws/config", ".aws/credentials"])
def test_writer_of_a_pipe_in_place_of_a_file_of_the_sdks_still_waits_for_a_reader(name: str, patient: Patient) -> None:
    path = patient.folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with subprocess.Popen(["/bin/sh", "-c", f"printf keys > {path}"]) as writer:
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)
        patient.findings()
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)
        assert path.read_text() == "keys"


@pytest.mark.parametrize("name", [".aws/config", ".aws/credentials"])
def test_huge_file_of_the_sdks_is_named_and_not_read(name: str, patient: Patient) -> None:
    path = patient.folder / name
    path.touch()
    os.truncate(path, 2**24 + 1)
    found = {each["id"]: each["found"] for each in patient.findings()}
    assert found["config-too-long"] == f"{path} is {2**24 + 1} bytes long"
    assert "config-unreadable" not in found  # The AWS CLI reads it.


@pytest.mark.parametrize("source", ["file:{}/absent", "{}/absent", "file://{}/absent", "file:{}/shared"])
def test_pin_file_that_cannot_be_used_is_named_without_a_pin(source: str, patient: Patient) -> None:
    patient.write("pin", "right").chmod(0o600)
    patient.write("shared", "right").chmod(0o666)
    patient.change({"private-key": f"file:{patient.key}?pin-source={source.format(patient.folder)}"})
    assert patient.names() == {"pin-unreadable"}
    patient.change({"private-key": f"file:{patient.key}?pin-source=file:{patient.folder}/pin"})
    assert patient.names() == set()


def test_profile_whose_name_the_system_s_agent_has_too_is_named(patient: Patient) -> None:
    text = (patient.folder / "config/hwsigner/config.toml").read_text()
    patient.write("etc/config.toml", text.replace("role/hwsigner-demo", "role/other"))
    assert patient.names() == set()  # It is a default that this user's profile replaces.
    patient.write("etc/config.toml", text.replace("role/hwsigner-demo", "role/other") + '\nallow-users = ["web"]\n')
    (found,) = patient.findings()
    assert (found["id"], found["profile"]) == ("profile-twice", "web")


def test_setting_that_accepts_any_server_is_named(patient: Patient) -> None:
    patient.change({"no-verify-ssl": True})
    assert patient.names() == set()  # The emulator is on loopback.
    patient.change({"endpoint": "https://rolesanywhere.example.com"})
    assert patient.names() == {"setting-unsafe"}


def test_process_of_a_profile_that_only_the_system_s_agent_can_read_is_no_mistake(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient.process_line(f"{patient.folder}/bin/hwsigner-credentials --profile other")
    patient.program("hwsigner-credentials", "exit 0")
    assert patient.names() == {"process-command"}
    system = patient.write("etc/config.toml", "")
    # A test that runs as root has no file that it may not read.
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != str(system) or mode != os.R_OK)
    assert patient.names() == set()
    (patient.folder / "config/hwsigner/config.toml").unlink()
    assert patient.call("doctor").out == "Nothing is wrong: no profile\n"
    assert "that you can read" in patient.call("status").err


def test_second_file_of_a_mac_is_a_finding(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    folders = [patient.folder / each / "hwsigner" for each in (".config", "Library/Application Support")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.toml").write_bytes((patient.folder / "config/hwsigner/config.toml").read_bytes())
    (found,) = json.loads(patient.call("doctor", "--json").out)["findings"]
    read, other = (f"{folder}/config.toml" for folder in folders)
    assert (found["id"], found["found"]) == ("profiles-ignored", f"{other} is not read, because there is {read}")
    (folders[0] / "config.toml").unlink()
    assert patient.names() == set()


def test_control_characters_do_not_reach_the_terminal(patient: Patient) -> None:
    patient.write("config/hwsigner/config.toml", '[profile."\\u001b[31mred"]\ncertificate = "/absent.pem"\n')
    patient.aws_config("[\x1b[31mred]\ncredential_process = x\n")
    assert "\x1b" not in patient.call("doctor").out


def test_home_that_is_no_folder_is_no_mistake(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    assert patient.names() == set()
    monkeypatch.delenv("XDG_CONFIG_HOME")
    outcome = patient.call("doctor", "--json")
    assert [each["id"] for each in json.loads(outcome.out)["findings"]] == ["profile-none"]
    assert patient.call("status").status == 1  # There is none: it is not an internal error.


def test_no_profile_is_a_finding(patient: Patient) -> None:
    (patient.folder / "config/hwsigner/config.toml").unlink()
    patient.aws_config("")
    outcome = patient.call("doctor", "--json")
    assert (outcome.status, [each["id"] for each in json.loads(outcome.out)["findings"]]) == (1, ["profile-none"])


def test_unknown_profile_is_an_error(patient: Patient) -> None:
    outcome = patient.call("doctor", "--profile", "wbe")
    assert (outcome.status, outcome.out) == (2, "")
