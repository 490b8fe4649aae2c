"""Mistakes of the machine and of the service: a TPM, pcscd, an agent, units, the clock, proxies, CAs, and AWS."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

import certs
from agent.homes import Home, run_agent
from emulators import InProcessSoftHSM
from hwsigner._agent import protocol
from hwsigner._agent.listener import open_listener
from hwsigner._system import pcsc
from hwsigner._system.clocks import utc_now
from hwsigner.doctor import machine
from hwsigner.emulator import Emulator, Fault, World
from hwsigner.errors import AgentError
from hwsigner.findings import Finding, local
from patients import Patient
from ports import reserve_port
from softhsm.command import ToolError, run
from softhsm.tpm import SoftTPM

SRK, HANDLE = "0x81000001", 0x81000043
OTHER_CA = certs.make_ca("Other CA")


@contextmanager
def another_service(patient: Patient, **options: object) -> Iterator[Emulator]:
    """Run another emulator that trusts the same CA, and name it in the profile."""
    with Emulator(World.simple(patient.ca.certificate), **options) as emulator:  # type: ignore[arg-type]
        patient.change({"endpoint": emulator.url})
        yield emulator


def _as_admin(patient: Patient, emulator: Emulator) -> list[str]:
    """Give the home an administrator's credentials, and return the flags that use them."""
    emulator.add_credentials("AKIDADMIN", "an-admins-secret")
    keys = "aws_access_key_id = AKIDADMIN\naws_secret_access_key = an-admins-secret\n"
    patient.write(".aws/credentials", f"[admin]\n{keys}")
    return ["--aws", "--aws-profile=admin", f"--endpoint={emulator.url}"]


class TestOnline:
    @pytest.mark.parametrize(("minutes", "side"), [(10, "behind"), (-10, "ahead of")])
    def test_wrong_clock_is_named(self, patient: Patient, minutes: int, side: str) -> None:
        with another_service(patient, clock=lambda: utc_now() + timedelta(minutes=minutes)):
            found = {each["id"]: each for each in patient.findings("--online")}
        assert side in found["clock-wrong"]["found"]
        assert "timedatectl" in found["clock-wrong"]["fix"]

    def test_wrong_clock_is_named_when_the_certificate_seems_to_have_expired(self, patient: Patient) -> None:
        patient.issue(certs.Shape(begin=certs.ago(3), end=certs.ago(1)))
        with another_service(patient, clock=lambda: utc_now() - timedelta(days=2)):
            assert patient.names("--online") == {"certificate-expired", "clock-wrong"}

    def test_server_that_the_cas_do_not_vouch_for_is_named(self, patient: Patient) -> None:
        with another_service(patient, tls=True):
            (found,) = patient.findings("--online")
        assert found["id"] == "service-unreachable"
        assert "AWS_CA_BUNDLE" in found["fix"]

    def test_proxy_that_does_not_answer_is_named(self, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{reserve_port()}")
        patient.change({"endpoint": "https://rolesanywhere.example.com", "timeout": 1})
        (found,) = patient.findings("--online")
        assert found["id"] == "service-unreachable"
        assert "HTTPS_PROXY" in found["found"]

    def test_other_trust_anchor_is_named(self, patient: Patient) -> None:
        patient.issue(certs.LEAF, OTHER_CA)
        patient.leaf.write_bytes(patient.leaf.read_bytes().replace(OTHER_CA.pem, b""))
        (found,) = patient.findings("--online")
        assert found["id"] == "session-refused"
        assert "trust anchor" in found["fix"]

    def test_session_name_that_the_profile_does_not_accept_is_named(self, patient: Patient) -> None:
        patient.change({"role-session-name": "web"})
        (found,) = patient.findings("--online")
        assert found["id"] == "session-refused"
        assert "acceptRoleSessionName" in found["fix"]

    def test_profile_that_refuses_the_session_names_of_serve_pods_is_named(self, patient: Patient) -> None:
        patient.write("config/hwsigner/pods.toml", '[accounts]\n"team-a/web" = "web"\n')
        (found,) = patient.findings("--online")
        assert found["id"] == "session-refused"
        assert "aws setup --accept-role-session-name" in found["fix"]
        patient.emulator.world.profiles[patient.emulator.profile_arn].accept_role_session_name = True
        try:
            assert patient.findings("--online") == []
        finally:
            patient.emulator.world.profiles[patient.emulator.profile_arn].accept_role_session_name = False

    def test_session_that_is_shorter_than_asked_is_a_finding(self, patient: Patient) -> None:
        patient.change({"session-duration": 43200})
        (found,) = patient.findings("--online")
        assert found["id"] == "duration-shortened"
        assert "lasts 60 minutes, not 720 minutes" in found["found"]
        assert "--session-duration" in found["fix"]

    def test_refusal_is_shown_with_its_usual_cause(self, patient: Patient) -> None:
        patient.emulator.misbehave(Fault.parse("deny"))
        (found,) = patient.findings("--online")
        assert (found["id"], found["profile"]) == ("session-refused", "web")
        assert "Access denied" in found["found"]


class TestAws:
    """With an administrator's credentials, what AWS has is compared, by the code of `aws check`."""

    @pytest.fixture
    def admin(self, patient: Patient) -> Iterator[list[str]]:
        with another_service(patient) as emulator:
            yield _as_admin(patient, emulator)

    def test_open_trust_policy_of_the_account_is_named(self, patient: Patient, admin: list[str]) -> None:
        assert patient.names(*admin) == {"condition-none"}

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({"session-duration": 43200}, "duration-shortened"),
            ({"role-session-name": "web"}, "session-name-refused"),
        ],
    )
    def test_planted_value_is_named(
        self, patient: Patient, admin: list[str], values: dict[str, object], expected: str
    ) -> None:
        patient.change(values)
        assert patient.names(*admin) == {"condition-none", expected}

    def test_duration_over_the_role_s_is_named(self, patient: Patient) -> None:
        with another_service(patient) as emulator:
            emulator.world.profiles[emulator.profile_arn].duration_seconds = 43200
            patient.change({"session-duration": 7200})
            assert patient.names(*_as_admin(patient, emulator)) == {"condition-none", "duration-over-role"}

    @pytest.mark.parametrize("flags", [["--aws"], ["--aws", "--aws-profile=no-such"]])
    def test_what_keeps_aws_from_being_asked_is_named_beside_the_other_findings(
        self, patient: Patient, flags: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patient.issue(certs.Shape(digital_signature=False))
        assert patient.names(*flags, "--endpoint=http://127.0.0.1:9") == {"aws-not-asked", "certificate-key-usage"}

    def test_other_trust_anchor_is_named(self, patient: Patient, admin: list[str]) -> None:
        leaf = certs.issue(OTHER_CA, patient.public_key())
        patient.leaf.write_bytes(certs.pem(leaf))
        assert "chain-untrusted" in patient.names(*admin)


class TestTpm:
    @pytest.fixture
    def key(self, patient: Patient, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A key of the TPM without an auth value, in the place of the file key."""
        monkeypatch.setenv("TPM2_TCTI", swtpm.tcti)
        patient.key.unlink()
        swtpm.create_key_file(patient.key, "EC:P-256")
        leaf = certs.issue(patient.ca, swtpm.public_key(patient.key))
        patient.leaf.write_bytes(certs.pem(leaf))
        return patient.key

    def test_sound_tpm_has_no_findings(self, patient: Patient, key: Path) -> None:
        assert patient.findings("--online") == []
        facts = json.loads(patient.call("doctor", "--json").out)["facts"]
        assert facts["web"]["key"].startswith(f"in the TPM that made the file {patient.key}, under the primary key")

    @pytest.mark.usefixtures("any_auth_values")
    def test_lockout_is_named(self, patient: Patient, key: Path, swtpm: SoftTPM) -> None:
        swtpm.persist(HANDLE, "ecc256", "right")
        run(["tpm2_dictionarylockout", "--setup-parameters", "--max-tries=1"], swtpm.env)
        try:
            assert patient.names() == {"pin-nearly-locked"}
            message, signature = patient.write("message", "x"), patient.folder / "signature"
            with pytest.raises(ToolError):
                run(["tpm2_sign", "-c", hex(HANDLE), "-p", "wrong", "-o", str(signature), str(message)], swtpm.env)
            (found,) = patient.findings()
        finally:
            run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", hex(HANDLE)], swtpm.env)
        assert found["id"] == "pin-locked"
        assert "--clear-lockout" in found["fix"]

    def test_changed_storage_root_key_is_named(self, patient: Patient, key: Path, swtpm: SoftTPM) -> None:
        key.unlink()
        swtpm.create_key_file(key, "EC:P-256", "right")
        patient.leaf.write_bytes(certs.pem(certs.issue(patient.ca, swtpm.public_key(key, "right"))))
        patient.write("pin", "right").chmod(0o600)
        patient.change({"private-key": f"tpm2:path={key}?pin-source=file:{patient.folder}/pin"})
        assert patient.findings("--online") == []  # It is pinned now.
        primary = str(patient.folder / "srk")
        run(["tpm2_createprimary", "-Q", "-G", "rsa", "-c", primary], swtpm.env)
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", primary, SRK], swtpm.env)
        run(["tpm2_flushcontext", "-t"], swtpm.env)
        try:
            (found,) = patient.findings("--online")
        finally:
            run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", SRK], swtpm.env)
        assert found["id"] == "key-unusable"
        assert "storage root key" in found["found"]
        assert "--accept-new-srk" in found["fix"]

    def test_changed_pcr_is_named(self, patient: Patient, key: Path, swtpm: SoftTPM) -> None:
        key.unlink()
        assert patient.call("keygen", f"tpm2:path={key}", "--pcrs", "sha256:23").status == 0
        shown = json.loads(patient.call("show", key, "--json").out)["publicKey"]
        patient.issue(public_key=load_pem_public_key(shown.encode()))
        assert patient.findings("--online") == []
        run(["tpm2_pcrextend", f"23:sha256={'11' * 32}"], swtpm.env)
        try:
            (found,) = patient.findings("--online")
        finally:
            run(["tpm2_pcrreset", "23"], swtpm.env)
        assert found["id"] == "key-unusable"
        assert "PCR sha256:23" in found["found"]

    def test_tpm_that_does_not_answer_is_named_for_its_key_file(self, patient: Patient, key: Path) -> None:
        patient.change({"private-key": f"tpm2:path={key}?tcti=swtpm:path={patient.folder}/absent"})
        (found,) = patient.findings()
        assert found["id"] == "key-unusable"
        assert "does not answer" in found["found"]

    def test_group_of_the_device_is_named(self, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
        # A test that runs as root has no device that it may not read.
        monkeypatch.setattr(machine, "reading_group", {machine.TPM_DEVICE: "tss"}.get)
        patient.change({"private-key": "tpm2:handle=0x81000042"})
        (found,) = patient.findings()
        assert found["id"] == "tpm-group"
        assert "usermod -aG tss" in found["fix"]


def test_pcscd_that_refuses_is_named(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    # polkit's own refusal is a test of tests/machine.
    monkeypatch.setattr(pcsc, "is_refused", lambda: True)
    patient.change({"private-key": "pkcs11:token=absent?module-path=/absent.so"})
    assert patient.names() == {"pcscd-refuses", "key-unusable"}


def test_token_gets_no_pin_without_online(patient: Patient, softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("web", b"\x01", "EC:prime256v1")
    patient.leaf.write_bytes(certs.pem(certs.issue(patient.ca, softhsm.public_key(b"\x01"))))
    softhsm.reload()
    uri = f"pkcs11:token={softhsm.label};object=web;type=private?module-path={softhsm.module}"
    patient.change({"private-key": f"{uri}&pin-value=wrong"})
    assert patient.names() <= {"setting-unsafe"}
    facts = json.loads(patient.call("doctor", "--json").out)["facts"]
    assert facts["web"]["key"] == f"in pkcs11:token={softhsm.label};object=web;type=private"  # It is hidden.
    assert patient.call("list", uri, "--json").out.count("an earlier try failed") == 0
    patient.change({"private-key": f"{uri}&pin-value={softhsm.pin}"})
    assert patient.names("--online") <= {"setting-unsafe"}


def test_stored_pin_that_was_refused_is_named(patient: Patient, softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("refused", b"\x02", "EC:prime256v1")
    patient.leaf.write_bytes(certs.pem(certs.issue(patient.ca, softhsm.public_key(b"\x02"))))
    softhsm.reload()
    pin = patient.write("pin", "wrong")
    pin.chmod(0o600)
    token = f"pkcs11:token={softhsm.label}?module-path={softhsm.module}"
    patient.change({"private-key": f"{token.replace('?', ';object=refused;type=private?')}&pin-source=file:{pin}"})
    assert patient.call("credential-process", "--profile", "web").status == 3
    pin.write_text(softhsm.pin)
    assert patient.call("credential-process", "--profile", "web").status == 3  # The right one is not sent either.
    (found,) = patient.findings()
    start, command = found["fix"].split(": ", 1)
    assert (found["id"], start) == ("pin-failed", "Correct the stored PIN, then log in once")
    *words, named = shlex.split(command)
    assert words == ["hwsigner", "list", "--login"]
    (listed,) = json.loads(patient.call("list", named, "--json").out)["tokens"]
    assert (listed["label"], listed["pinState"]) == (softhsm.label, "an earlier try failed")
    assert patient.call("list", f"{named}&pin-value={softhsm.pin}", "--login", "--allow-final-pin-try").status == 0
    assert patient.findings() == []


def test_refused_pin_is_not_named_for_a_key_without_a_stored_one(patient: Patient, softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("typed", b"\x03", "EC:prime256v1")
    patient.leaf.write_bytes(certs.pem(certs.issue(patient.ca, softhsm.public_key(b"\x03"))))
    softhsm.reload()
    token = f"pkcs11:token={softhsm.label}?module-path={softhsm.module}"
    patient.change({"private-key": token.replace("?", ";object=typed;type=private?")})
    assert patient.call("list", f"{token}&pin-value=wrong", "--login").status == 3
    assert '"an earlier try failed"' in patient.call("list", token, "--json").out
    assert patient.findings() == []
    assert patient.call("list", f"{token}&pin-value={softhsm.pin}", "--login", "--allow-final-pin-try").status == 0


class TestUnits:
    def test_missing_program_is_named(self, patient: Patient) -> None:
        patient.write("units/hwsigner-agent.service", "[Service]\nExecStart=/opt/absent/hwsigner agent\n")
        (found,) = patient.findings()
        assert (found["id"], found["profile"]) == ("unit-program", "")
        assert "/opt/absent/hwsigner" in found["found"]

    def test_unit_that_is_not_utf_8_is_checked_too(self, patient: Patient) -> None:
        text = "# Kürzel\n[Service]\nExecStart=/opt/absent/hwsigner agent\n".encode("latin-1")
        patient.write("units/hwsigner-agent.service", text)
        assert patient.names() == {"unit-program"}

    def test_program_with_a_null_character_is_missing(self, patient: Patient) -> None:
        patient.write("units/hwsigner-agent.service", "[Service]\nExecStart=/opt/hw\0signer agent\n")
        assert patient.names() == {"unit-program"}

    @pytest.mark.parametrize("line", ["ExecStart='{}/my programs/hwsigner' agent", "ExecStart=%h/bin/hwsigner agent"])
    def test_program_that_is_there_is_no_mistake(self, patient: Patient, line: str) -> None:
        patient.program("../my programs/hwsigner", "exit 0")
        patient.write("units/hwsigner-agent.service", f"[Service]\n{line.format(patient.folder)}\n")
        assert patient.findings() == []

    @pytest.mark.parametrize("place", ["pipe", "huge", "/dev/zero"])
    def test_pipe_device_or_huge_file_in_place_of_a_unit_is_not_read(self, patient: Patient, place: str) -> None:
        os.mkfifo(patient.folder / "pipe")
        (patient.folder / "huge").touch()
        os.truncate(patient.folder / "huge", 2**40)
        (patient.folder / "units").mkdir()
        (patient.folder / "units/hwsigner-agent.service").symlink_to(patient.folder / place)
        assert patient.findings() == []

    def test_failed_unit_is_named(self, patient: Patient) -> None:
        line = "hwsigner-renew@web.service loaded failed failed Renew"
        patient.program("systemctl", f'[ "$1" = --user ] || echo {line}')
        (found,) = patient.findings()
        assert found["id"] == "unit-failed"
        assert "journalctl -u hwsigner-renew@web.service" in found["fix"]


def test_profile_that_the_agent_has_locked_is_named(patient: Patient) -> None:
    with run_agent(Home(patient.folder, patient.ca, patient.emulator)) as running:
        running.ask(b"1 lock web\n")
        (found,) = patient.findings()
    assert (found["id"], found["profile"]) == ("agent-locked", "web")
    assert found["fix"] == "Run hwsigner agent unlock web"


@pytest.mark.slow
def test_agent_that_does_not_answer_is_named(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SILENCE_LIMIT", 0.1)
    address = Home(patient.folder, patient.ca, patient.emulator).address
    with open_listener(address, {}):
        (found,) = patient.findings()
        status, asked = patient.call("status"), patient.call("agent", "status")
    assert (found["id"], found["profile"]) == ("agent-silent", "")
    assert "the user's agent" in found["found"]
    assert (status.status, "does not answer in time" in status.err) == (1, True)
    assert (asked.status, "in time. Find it with pgrep -af 'hwsigner agent'" in asked.err) == (7, True)


@pytest.mark.root
@pytest.mark.parametrize(("users", "ids"), [(["www-data"], {"agent-unreadable"}), ([], set())])
def test_file_that_the_system_s_agent_can_t_read_is_named_with_the_command(
    patient: Patient, users: list[str], ids: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody")
    monkeypatch.setattr("hwsigner._config.sharing.pwd.getpwnam", lambda _: nobody)
    file = patient.folder / "etc" / "config.toml"
    patient.change({"allow-users": users})
    file.parent.mkdir()
    (patient.folder / "config/hwsigner/config.toml").rename(file)
    found = patient.findings()
    assert {each["id"] for each in found} == ids
    commands = [each["fix"] for each in found]
    for path in (file, patient.leaf, patient.key)[: 3 * len(ids)]:
        assert any(command.endswith(f"chown root:hwsigner {path} && chmod 640 {path}") for command in commands)


def test_agent_s_last_failure_is_named(patient: Patient) -> None:
    home = Home(patient.folder, patient.ca, patient.emulator)
    with run_agent(home) as running:
        patient.emulator.misbehave(Fault.parse("deny*9"))
        running.get()
        (found,) = patient.findings()
    assert (found["id"], found["profile"]) == ("agent-failure", "web")
    assert "Access denied" in found["found"]


class TestHybridNode:
    @pytest.fixture
    def program(self, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> Path:
        """AWS's program, and a node's config file that runs it with the patient's key."""
        program = patient.write("aws_signing_helper", b"\x7fELF")
        config = f"[profile default]\ncredential_process = {program} credential-process --private-key {patient.key}\n"
        monkeypatch.setattr(machine, "NODE_PROGRAM", str(program))
        monkeypatch.setattr(machine, "NODE_CONFIG", str(patient.write("hybrid", config)))
        return program

    def test_program_that_an_upgrade_put_back_is_named(self, patient: Patient, program: Path) -> None:
        (found,) = patient.findings()
        assert (found["id"], found["profile"]) == ("node-program", "web")
        assert str(program) in found["found"]

    @pytest.mark.parametrize("how", ["ours", "another key", "no program"])
    def test_node_is_sound_with_hwsigner_or_with_another_key(self, patient: Patient, program: Path, how: str) -> None:
        if how == "ours":
            program.write_bytes(Path(sys.executable).with_name("hwsigner").read_bytes())
        elif how == "another key":
            patient.write("hybrid", f"credential_process = {program} credential-process --private-key /etc/other.key\n")
        else:
            program.unlink()
        assert patient.findings() == []


def _fail_after_one(*_: object) -> Iterator[Finding]:
    yield local.UNIT_FAILED.found("hwsigner-agent.service failed")
    raise ValueError("pin-value=1234")


def test_check_that_fails_is_named_beside_all_other_findings(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "check_units", _fail_after_one)
    patient.issue(certs.Shape(digital_signature=False))
    found = {each["id"]: each["found"] for each in patient.findings()}
    assert found.keys() == {"unit-failed", "check-failed", "certificate-key-usage"}
    assert found["check-failed"].startswith("the check of the units failed: ValueError at test_machine.py:")
    assert "1234" not in json.dumps(found)


def test_error_of_a_check_is_named_with_its_words(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Iterator[Finding]:
        raise AgentError("the agent is older", "Start it again")

    monkeypatch.setattr(machine, "check_agents", refuse)
    (found,) = patient.findings()
    assert (found["id"], found["fix"]) == ("check-failed", "Start it again")
    assert found["found"] == "the check of the agents failed: the agent is older"
