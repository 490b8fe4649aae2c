"""`--output json`: each command that has it prints JSON with the fields that docs/reference/output.md names."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

import certs
from attestation.chips import Chip, Vendor, chip, chips, vendors
from emulators import InProcessSoftHSM
from enrolments import Enrolment
from hwsigner import __version__, attestation
from hwsigner._cli import COMMANDS
from hwsigner._cli.parser import Parser
from hwsigner.key.public_key import to_pem
from json_output import documented, read
from pages import ROOT
from revocations import Account, account
from scene import Outcome, Scene

Call = Callable[..., Outcome]
JSON = "--output=json"

__all__ = ["account", "chip", "chips", "vendors"]


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.toml of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("hwsigner._config.profiles.SYSTEM_FILE", str(tmp_path / "none"))


def fields(command: str) -> set[str]:
    """Return the fields that the page gives a command in one list."""
    return set(documented()[command].replace("`", "").split(", "))


def test_page_has_the_fields_of_every_command_with_the_flag() -> None:
    found = set()
    for name, module in COMMANDS.items():
        command = importlib.import_module(module)
        parser = Parser(name, command.HELP)
        command.add_arguments(parser)
        names = {flag.name for flag in parser.flags}
        assert ("json" in names) == ("output" in names)
        found |= {name} if "output" in names else set()
    assert found == documented().keys()


def test_both_spellings_print_the_same(call: Call) -> None:
    assert call("version", "--json") == call("version", JSON) == call("version", "--output", "json")
    assert call("version", "--output", "text").out == f"{__version__}\n"


def test_other_format_is_an_error(call: Call) -> None:
    outcome = call("version", "--output", "jsn")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "hwsigner: --output is 'jsn': write one of text, json. Did you mean json?\n"


def test_version(call: Call) -> None:
    data = read(call("version", JSON), "version", alone=True)
    assert data.keys() == fields("version")
    assert data["version"] == __version__
    assert data["libraries"]["cryptography"]


def test_life_of_a_key(scene: Scene) -> None:
    call, key, request = scene.call, scene.folder / "web.key", scene.folder / "web.csr"
    made = read(call("keygen", key, JSON), "keygen", alone=True)
    assert made.keys() == fields("keygen")
    names = ("--subject=CN=web,OU=devops", "--dns=web.example.com")
    asked = read(call("csr", key, *names, JSON), "csr", alone=True)
    assert asked.keys() == fields("csr")
    assert asked["request"].startswith("-----BEGIN CERTIFICATE REQUEST-----\n")
    assert (asked["file"], asked["dns"], asked["uris"]) == (None, ["web.example.com"], [])
    written = read(call("csr", key, *names, JSON, "--out", request), "csr", alone=True)
    assert (written["file"], written["request"]) == (str(request), request.read_text())
    issued = scene.issue(load_pem_private_key(key.read_bytes(), None).public_key())
    installed = read(call("install-certificate", issued, key, "--profile=web", JSON), "install-certificate")
    assert installed.keys() == fields("install-certificate")
    shown = read(call("show", key, JSON), "show", alone=True)
    assert shown.keys() == fields("show")
    assert {"uri", "subject", "issuer", "serialNumber", "notBefore", "notAfter"} <= shown["certificate"].keys()
    assert read(call("delete", key, "--yes", JSON), "delete", alone=True).keys() == fields("delete")


def test_session_tags(scene: Scene) -> None:
    assert "x509Subject/CN" in json.loads(scene.call("aws", "principal-tags", scene.leaf, JSON).out)


def test_profiles(call: Call, tmp_path: Path) -> None:
    file = str(tmp_path / "config" / "hwsigner" / "config.toml")
    add = ("profile", "add", "web", "--region=eu-west-1", "--pkcs8-password=hunter2")
    changed = {"name": "web", "file": file}
    assert read(call(*add, JSON), "profile") == changed
    assert read(call("profile", "edit", "web", "--private-key=file:/k?pin-value=hunter2", JSON), "profile") == changed
    shown = read(call("profile", "show", "web", JSON), "profile", alone=True)
    values = {"region": "eu-west-1", "pkcs8-password": "…", "private-key": "file:/k"}
    assert shown == {**changed, "values": values}
    (listed,) = read(call("profile", "list", JSON), "profile", alone=True)["profiles"]
    (shown,) = read(call("status", JSON), "status", status=1)["profiles"]
    assert shown == {**listed, "works": False, "agent": None}
    assert changed.items() <= listed.items()
    assert [name for name in shown if f"`{name}`" not in documented()["status"]] == []
    findings = read(call("doctor", JSON), "doctor", status=1)["findings"]
    assert findings[0].keys() == {"id", "found", "why", "fix", "profile"}
    assert read(call("profile", "remove", "web", JSON), "profile", alone=True) == changed
    assert read(call("profile", "list", JSON), "profile", alone=True) == {"profiles": []}


def test_tokens(softhsm: InProcessSoftHSM, call: Call) -> None:
    uri = f"pkcs11:token={softhsm.label}?module-path={softhsm.module}"
    data = read(call("list", uri, JSON), "list", alone=True)
    assert {"keys", "otherKeys", "certificates"} <= data["tokens"][0].keys()
    found = read(call("read-certificate-data", "--certificate", uri, JSON), "read-certificate-data", alone=True)
    assert found == {"certificates": []}
    softhsm.generate("output", b"\x51", "EC:secp256r1")
    leaf = certs.issue(certs.make_ca(), softhsm.public_key(b"\x51"))
    softhsm.write_certificate(leaf.public_bytes(Encoding.DER), "output", b"\x51")
    found = read(call("read-certificate-data", "--certificate", uri, JSON), "read-certificate-data", alone=True)
    assert found["certificates"][0]["serialNumber"] == str(leaf.serial_number)


def test_registrar_s_files(call: Call, tmp_path: Path) -> None:
    policy, keys = tmp_path / "policy.toml", tmp_path / "keys"
    allow = ("registrar", "allow", "ab" * 32, "--subject=CN=web-01", "--policy", policy, JSON)
    added = {"name": "web-01", "chip": "ab" * 32, "policy": str(policy), "changed": True, "ek": None, "pcrs": []}
    assert read(call(*allow), "registrar allow", alone=True) == added
    assert read(call(*allow), "registrar allow", alone=True) == {**added, "changed": False}
    (tmp_path / "ek").write_text("cd" * 32)
    given = ("--ek-public-key", tmp_path / "ek", "--subject=CN=web-02", "--pcrs", f"7={'AB' * 32}")
    certified = read(call("registrar", "allow", *given, "--policy", policy, JSON), "registrar allow", alone=True)
    assert (certified["ek"], certified["pcrs"]) == ("public-key", [f"7={'ab' * 32}"])
    listed = {"name": "web-01", "tpm": "ab" * 32, "subject": "CN=web-01"}
    shown = read(call("registrar", "list", "--policy", policy, JSON), "registrar list", alone=True)
    assert shown["machines"][0] == listed
    removed = read(call("registrar", "remove", "web-01", "--policy", policy, JSON), "registrar remove", alone=True)
    assert removed == {**listed, "policy": str(policy)}
    rotated = read(call("registrar", "rotate-keys", "--keys", keys, JSON), "registrar rotate-keys", alone=True)
    assert (rotated["file"], len(rotated["keys"])) == (str(keys), 1)


@pytest.mark.slow
def test_enrolment_and_renewal(enrolment: Enrolment) -> None:
    call = enrolment.scene.call
    enrolled = read(enrolment.run(JSON), "enroll", alone=True)
    assert enrolled.keys() == fields("enroll")
    assert (enrolled["key"]["made"], enrolled["certificate"]["issued"], enrolled["missing"]) == (True, True, [])
    assert enrolled["next"] == "aws sts get-caller-identity --profile web"
    again = read(enrolment.again(JSON), "enroll", alone=True)
    assert (again["key"]["made"], again["certificate"]["issued"]) == (False, False)
    early = read(call("renew", "web", "--if-due", JSON), "renew", alone=True)
    assert early == {"renewed": False, "profile": "web"}
    renewed = read(enrolment.renewal_by(enrolment.issuer(days="9"), JSON), "renew", alone=True)
    assert renewed.keys() == {"renewed", "profile", "file", "subject", "notAfter", "oldKey", "timer"}


@pytest.mark.slow
def test_retirement(account: Account) -> None:
    machine = account.machine()
    account.call("profile", "add", "web", *account.flags(machine))
    ca = [f"--ca={account.folder}/ca.pem", f"--ca-key={account.folder}/ca.key", f"--endpoint={account.emulator.url}"]
    plan = read(account.revoke(machine.path, "--plan", JSON, answer=""), "aws revoke", alone=True)
    assert plan.keys() == {"steps", "alreadyRevoked", "notes"}
    outcome = account.call("retire", "web", *ca, "--yes", JSON)
    data = read(outcome, "retire")
    assert data.keys() == fields("retire")
    assert [word in " ".join(data["done"]) for word in ("revoke", "delete", "remove")] == [True] * 3
    assert not machine.key.exists()
    revoked = read(account.revoke(machine.path, JSON), "aws revoke", alone=True)
    assert (revoked["revoked"], len(revoked["alreadyRevoked"])) == ([], 1)


def test_attestation(chip: Chip, vendors: tuple[Vendor, Vendor], call: Call, tmp_path: Path) -> None:
    found = read(call("attest", chip.key, "--ek", JSON), "attest", alone=True)
    key = attestation.endorsement_key(chip.key)
    assert found == {"endorsementKey": call("attest", chip.key, "--ek").out.strip(), "publicKey": to_pem(key)}
    statement = tmp_path / "statement"
    assert read(call("attest", chip.key, "--out", statement, JSON), "attest") == {"file": str(statement)}
    assert json.loads(call("attest", chip.key, JSON).out).keys() == json.loads(statement.read_text()).keys()
    verify = ("verify-attestation", statement, "--roots", vendors[0].roots, JSON)
    assert read(call(*verify), "verify-attestation", alone=True).keys() == fields("verify-attestation")


def test_error_is_a_line_on_stderr_and_nothing_on_stdout(call: Call) -> None:
    outcome = call("show", "/absent", JSON)
    assert (outcome.status != 0, outcome.out, outcome.err.count("\n")) == (True, "", 1)


def test_pages_name_one_spelling() -> None:
    pages = [path for path in (ROOT / "docs").glob("*/*.md") if path.name not in ("output.md", "performance.md")]
    assert [path.name for path in pages if "`--json`" in path.read_text()] == []
