"""`hwsigner doctor --report`: it says what a developer asks first, and nothing of the configuration."""

from __future__ import annotations

import base64
import json
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import certs
from emulators import InProcessSoftHSM
from examples import scaled
from hwsigner._config.flags import IN_PROFILES, Flag
from hwsigner.doctor import machine
from hwsigner.doctor.course import examine_and_time
from hwsigner.doctor.report import VARIABLES, describe
from pages import ROOT, run_shell, shell_blocks
from patients import Patient
from softhsm.tpm import SoftTPM

pytestmark = pytest.mark.slow

UNIQUE = st.text("ghjkmnpqrvwxyzGHJKMNPQRVWXYZ23456789", min_size=12, max_size=16)
ARN = "arn:aws:{service}:eu-central-1:123456789012:{kind}/{name}"


def texts(value: object) -> Iterator[str]:
    """Yield the texts of values, and the names of tables in them."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield name
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    else:
        yield str(value)


def forms(secret: str) -> set[str]:
    """Return a value as it may be written: plain, escaped, percent-encoded, in base64 and in hex."""
    data = secret.encode()
    whole = base64.b64encode(data).decode().rstrip("=")[:-1]
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, ""), unquote(secret), whole, data.hex()}


def leaks(report: str, secrets: Iterable[str]) -> list[str]:
    folded = [report.casefold(), json.dumps(json.loads(report), ensure_ascii=False).casefold()]
    return [
        secret
        for secret in secrets
        if len(secret) > 5 and any(form.casefold() in each for form in forms(secret) for each in folded)
    ]


def report(patient: Patient, *flags: str) -> dict[str, Any]:
    """Return the report of the command."""
    outcome = patient.call("doctor", "--report", "-", *flags)
    assert outcome.err == ""
    made: dict[str, Any] = json.loads(outcome.out)
    return made


def test_report_says_versions_kinds_settings_findings_and_times(patient: Patient) -> None:
    patient.issue(certs.Shape(digital_signature=False))
    patient.change({"region": "us-east-1"})
    made = report(patient)
    (profile,) = made["profiles"]
    (finding,) = made["findings"]
    assert profile["settings"] == sorted(patient.values)
    assert (profile["key"], profile["key_kind"], profile["certificates"]) == ("file", "EC P-256", 1)
    assert finding == {"id": "certificate-key-usage", "level": "wrong", "profile": 1, "settings": ["certificate"]}
    assert profile["seconds"].keys() >= {"the certificate", "the key"}
    assert made["files"]["config of the SDKs"] is True
    assert made["files"]["credentials of the SDKs"] is False
    assert made["libraries"]["cryptography"]
    assert {"HOME", "XDG_CONFIG_HOME"} <= {*made["variables"]}
    assert re.match(r"\d+\.\d+", made["system"]["kernel"])
    assert made["asked"] == {"online": False, "aws": False, "policy": False}


def test_report_is_a_new_file_that_only_its_owner_can_read_beside_the_findings(patient: Patient) -> None:
    place = patient.folder / "report.json"
    outcome = patient.call("doctor", "--report", str(place))
    assert "Nothing is wrong" in outcome.out
    assert str(place) in outcome.err
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert json.loads(place.read_text())["findings"] == []


def test_command_of_the_page_writes_the_report(patient: Patient) -> None:
    run_shell(shell_blocks("docs/how-to/doctor.md", "## Report a bug", "| Field | Contents |"), patient.folder, {})
    made = json.loads((patient.folder / "report.json").read_text())
    page = (ROOT / "docs/how-to/doctor.md").read_text().partition("| Field | Contents |")[2].partition("\n\n")[0]
    assert {*re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)))} == made.keys()


def test_file_that_is_there_is_left_alone(patient: Patient) -> None:
    place = patient.write("report.json", "mine")
    outcome = patient.call("doctor", "--report", str(place))
    assert (outcome.status, outcome.out, place.read_text()) == (2, "", "mine")
    assert "is there already" in outcome.err
    link = patient.folder / "link"
    link.symlink_to(patient.folder / "nowhere")
    assert patient.call("doctor", "--report", str(link)).status == 2
    assert not (patient.folder / "nowhere").exists()


def test_report_that_can_t_be_written_is_an_error(patient: Patient) -> None:
    outcome = patient.call("doctor", "--report", str(patient.folder / "no" / "such"))
    assert "can't write" in outcome.err
    assert outcome.status == 2


def test_report_on_stdout_and_findings_in_json_do_not_mix(patient: Patient) -> None:
    assert patient.call("doctor", "--report", "-", "--json").status == 2
    place = patient.folder / "report.json"
    assert json.loads(patient.call("doctor", "--json", "--report", str(place)).out)["findings"] == []
    assert place.exists()


def value_of(flag: Flag, text: str) -> Any:
    """Return a value of a flag, valid if that needs no more than its form, which has the text."""
    forms: dict[str, Any] = {
        "trust-anchor-arn": ARN.format(service="rolesanywhere", kind="trust-anchor", name=text),
        "profile-arn": ARN.format(service="rolesanywhere", kind="profile", name=text),
        "role-arn": f"arn:aws:iam::123456789012:role/{text}",
        "endpoint": f"https://{text}.example.com",
        "issuer-url": f"https://{text}.example.com/v1",
        "instance-property": [f"{text}=x{text}"],
        "session-duration": "3600",
    }
    if flag.name in forms:
        return forms[flag.name]
    return [text] if flag.many else text


@settings(max_examples=scaled(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_report_has_no_value_of_any_setting(patient: Patient, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(IN_PROFILES)), unique=True, min_size=8))
    drawn = {name: value_of(IN_PROFILES[name], data.draw(UNIQUE)) for name in names}
    base = data.draw(st.sampled_from([{}, {"certificate": str(patient.leaf), "private-key": str(patient.key)}]))
    odd = {data.draw(UNIQUE): data.draw(UNIQUE) for _ in range(data.draw(st.integers(0, 1)))}
    name = data.draw(UNIQUE)
    lines = [
        f'[profile."{name}"]',
        *(f"{key} = {json.dumps(value)}" for key, value in {**drawn, **base, **odd}.items()),
    ]
    patient.write("config/hwsigner/config.toml", "\n".join(lines))
    made = patient.call("doctor", "--report", "-").out
    secrets = {name, *texts(list(drawn.values())), *odd, *odd.values(), str(patient.folder), "123456789012"}
    secrets -= {"3600"}
    assert leaks(made, secrets) == []


def test_report_has_no_name_of_machine_user_subject_or_variable(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secret-subject")])
    patient.issue_named(subject, x509.SubjectAlternativeName([x509.DNSName("secret-host.example.com")]))
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-machine")
    planted = {variable: f"planted-{variable.lower()}" for variable in VARIABLES if variable not in ("HOME", "TMPDIR")}
    kept = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
    for variable, value in planted.items():
        if variable not in kept:
            monkeypatch.setenv(variable, value)
    monkeypatch.setenv("LOGNAME", "secret-user")
    monkeypatch.delenv("HWSIGNER_PROFILE")
    patient.aws_config("[profile secret-section]\ncredential_process = /opt/secret-program --profile web\n")
    made = patient.call("doctor", "--report", "-").out
    secrets = {*planted.values(), "secret-subject", "secret-host", "secret-machine", "secret-user", "secret-section"}
    assert (
        leaks(made, {*secrets, "secret-program", *texts([*patient.values.values()]), str(patient.folder), "web.pem"})
        == []
    )
    assert "AWS_ACCESS_KEY_ID" in json.loads(made)["variables"]


def test_check_that_failed_is_named_with_its_place_and_without_its_message(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("secret-message")

    monkeypatch.setattr(machine, "describe_key", fail)
    made = report(patient)
    (finding,) = made["findings"]
    assert {name: finding[name] for name in ("id", "check", "error", "where")} == {
        "id": "check-failed",
        "check": "the key",
        "error": "KeyError",
        "where": None,  # A test's file is not hwsigner's.
    }
    assert "secret" not in json.dumps(made)


def test_report_of_a_token_has_its_module_and_model_and_no_label(patient: Patient, softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("secret-object", b"\x01", "EC:prime256v1")
    patient.leaf.write_bytes(certs.pem(certs.issue(patient.ca, softhsm.public_key(b"\x01"))))
    softhsm.reload()
    uri = f"pkcs11:token={softhsm.label};object=secret-object;type=private?module-path={softhsm.module}"
    patient.change({"private-key": f"{uri}&pin-value={softhsm.pin}"})
    made = report(patient)
    (profile,) = made["profiles"]
    assert (profile["key"], profile["module"]) == ("pkcs11", "libsofthsm2")
    assert profile["hardware"] == [["SoftHSM project", "SoftHSM v2"]]
    assert leaks(json.dumps(made), [softhsm.label, "secret-object", softhsm.pin, uri]) == []


def test_model_that_a_key_uri_names_is_left_out(patient: Patient, softhsm: InProcessSoftHSM) -> None:
    uri = f"pkcs11:token={softhsm.label};model=SoftHSM%20v2?module-path={softhsm.module}"
    patient.change({"private-key": uri})
    (profile,) = report(patient)["profiles"]
    assert profile["hardware"] == [["SoftHSM project", None]]


def test_report_of_a_tpm_has_its_maker(patient: Patient, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM2_TCTI", swtpm.tcti)
    patient.key.unlink()
    swtpm.create_key_file(patient.key, "EC:P-256")
    patient.leaf.write_bytes(certs.pem(certs.issue(patient.ca, swtpm.public_key(patient.key))))
    made = report(patient)
    (profile,) = made["profiles"]
    assert (profile["key"], profile["key_kind"], made["findings"]) == ("tpm2 path", "EC P-256", [])
    assert profile["hardware"][0][0]
    assert leaks(json.dumps(made), [swtpm.tcti, *texts([*patient.values.values()])]) == []


def test_report_can_be_made_of_a_configuration_that_can_t_be_read(patient: Patient) -> None:
    patient.write("config/hwsigner/config.toml", "[profile.secret-name\nsecret-key = 'secret-value'")
    made = report(patient)
    assert [each["id"] for each in made["findings"]] == ["profiles-unreadable"]
    assert "secret" not in json.dumps(made)


def test_variables_are_those_of_the_page() -> None:
    page = (ROOT / "docs/reference/files.md").read_text().partition("## Environment")[2]
    rows = re.findall(r"^\| (`[A-Z].*?) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)", row)}
    assert named - {*VARIABLES} == set()


def test_text_of_the_system_with_a_profile_s_name_is_left_out(patient: Patient) -> None:
    course = examine_and_time("web")
    assert str(describe(course)["system"]["libc"]).startswith("glibc ")
    course.states[0].profile.name = "libc"
    assert describe(course)["system"]["libc"] is None
