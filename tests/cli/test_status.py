"""`hwsigner status` and `whoami`: what there is, and who AWS says it is, without a PIN."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from agent.homes import Home, run_agent
from emulators import InProcessSoftHSM
from hwsigner._agent import client
from hwsigner._config import profiles
from hwsigner.emulator import Emulator, Fault
from hwsigner.enrolment import pace
from hwsigner.errors import SigningKeyError
from json_output import read
from judges import needs_long_socket_paths, needs_systemd
from scene import Outcome
from softhsm.tpm import SoftTPM

Call = Callable[..., Outcome]


@pytest.fixture
def home(
    ca: certs.Authority, shared_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Home]:
    """A home folder with the profile `web`, which this process uses."""
    shared_emulator.clear_faults()
    made = Home(tmp_path, ca, shared_emulator)
    made.write_profiles(web={})
    variables = {**made.environ, "AWS_ENDPOINT_URL": shared_emulator.url, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc" / "config.toml"))
    monkeypatch.setattr(client, "SYSTEM_FOLDER", str(tmp_path / "system"))
    yield made
    shared_emulator.clear_faults()


def status(call: Call) -> dict[str, Any]:
    outcome = call("status", "--json")
    found = {one["name"]: one for one in json.loads(outcome.out)["profiles"]}
    assert (outcome.status, outcome.err) == (int(any(one["problem"] for one in found.values())), "")
    return found


class TestStatus:
    def test_key_and_certificate_are_shown_without_an_agent(self, home: Home, call: Call) -> None:
        found = status(call)["web"]
        assert found["key"] == {"uri": str(home.folder / "web.key"), "place": "file that can be copied"}
        assert found["certificate"]["subject"] == "CN=bamboo-01,OU=devops,O=Example,C=DE"
        assert found["certificate"]["notAfter"].endswith("Z")
        assert (found["agent"], found["problem"]) == (None, None)

    @needs_long_socket_paths
    def test_agent_s_session_and_last_failure_are_shown(self, home: Home, call: Call) -> None:
        home.write_profiles(web={}, bad={})
        with run_agent(home) as running:
            expiration = json.loads(running.get().partition(b"\n")[2])["Expiration"]
            home.emulator.misbehave(Fault.parse("deny*9"))
            running.get("bad")
            found = status(call)
            lines = call("status").out.splitlines()
        assert found["web"]["agent"] == {
            "name": "user",
            "state": "ready",
            "expiration": expiration,
            "failure": None,
        }
        assert "Access denied" in found["bad"]["problem"]
        assert [line.split("\t")[0] for line in lines] == ["PROFILE", "bad", "web"]
        assert lines[2].split("\t")[3:5] == [expiration, "ready, user's agent"]

    def test_role_account_and_region_are_shown(self, home: Home, call: Call) -> None:
        home.write_profiles(web={}, west={"region": "eu-west-1"}, bad={"role-arn": "web"})
        found = status(call)
        fields = call("status").out.splitlines()[2].split("\t")
        assert (found["web"]["role"], found["web"]["account"]) == (home.emulator.role_arn, "123456789012")
        assert (found["web"]["region"], found["west"]["region"]) == ("us-east-1", "eu-west-1")
        assert (found["bad"]["role"], found["bad"]["account"]) == ("web", None)
        assert (fields[0], *fields[6:]) == (
            "web",
            "likely",
            "123456789012",
            "hwsigner-demo",
            "us-east-1",
            "no timer",
        )

    @needs_long_socket_paths
    def test_works_says_whether_there_is_a_session_now(self, home: Home, call: Call) -> None:
        home.write_profiles(web={}, bad={"role-arn": "web"}, idle={}, locked={})
        assert {name: one["works"] for name, one in status(call).items()} == {
            "web": None,
            "bad": False,
            "idle": None,
            "locked": None,
        }
        with run_agent(home) as running:
            running.get()
            call("agent", "lock", "locked")
            found = status(call)
        assert {name: one["works"] for name, one in found.items()} == {
            "web": True,
            "bad": False,
            "idle": None,
            "locked": False,
        }

    @pytest.mark.parametrize(("of_system", "expected"), [(True, "system"), (False, "user")])
    @needs_systemd
    def test_enabled_timer_renews_a_certificate_with_an_issuer(
        self, home: Home, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_system: bool, expected: str
    ) -> None:
        monkeypatch.setattr(pace, "unit_folder", lambda *, system: str(tmp_path / ("etc" if system else "config")))
        home.write_profiles(web={"issuer-command": "/bin/true"}, plain={})
        if of_system:
            Path(profiles.SYSTEM_FILE).parent.mkdir()
            Path(home.environ["XDG_CONFIG_HOME"], "hwsigner", "config.toml").rename(profiles.SYSTEM_FILE)
            monkeypatch.setattr("hwsigner._cli.status.SYSTEM_FILE", profiles.SYSTEM_FILE)
        assert status(call)["web"]["renewedBy"] is None
        for folder in ("etc", "config"):
            for name in ("web", "plain") if (folder == "etc") == of_system else ():
                wants = tmp_path / folder / "timers.target.wants"
                wants.mkdir(exist_ok=True, parents=True)
                (wants / f"hwsigner-renew@{name}.timer").symlink_to("/absent")
        assert {name: one["renewedBy"] for name, one in status(call).items()} == {"web": expected, "plain": None}
        assert call("profile", "list").out.splitlines()[1].split("\t")[7] == f"{expected}'s timer"

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda key: key.unlink(), "can't read KEY: No such file or directory"),
            (lambda key: (key.unlink(), key.mkdir()), "can't read KEY: Is a directory"),
            (lambda key: key.write_bytes(b""), "KEY has no private key"),
            (
                lambda key: key.write_text("-----BEGIN PRIVATE KEY-----\n"),
                "KEY is not a key or certificate file: the PRIVATE @ block has no matching BEGIN and END lines",
            ),
            (
                lambda key: certs.write_key(key, ec.generate_private_key(ec.SECP256R1())),
                "the key KEY is not that of certificate CERTIFICATE",
            ),
        ],
        ids=["missing", "folder", "empty", "damaged", "another"],
    )
    def test_key_file_that_cannot_sign_for_the_certificate_is_a_problem(
        self, home: Home, call: Call, change: Callable[[Path], object], problem: str
    ) -> None:
        key = home.folder / "web.key"
        change(key)
        expected = (
            problem.replace("KEY", str(key)).replace("@", "KEY").replace("CERTIFICATE", str(home.folder / "web.pem"))
        )
        found = status(call)["web"]
        assert (found["problem"], found["works"]) == (expected, False)
        listed = json.loads(call("profile", "list", "--json").out)["profiles"][0]
        assert listed["problem"] == expected
        assert listed.items() <= found.items()

    def test_key_file_of_a_tpm_that_is_missing_is_a_problem(self, home: Home, call: Call) -> None:
        home.write_profiles(web={"private-key": "tpm2:path=/absent.tss2"})
        assert status(call)["web"]["problem"] == "can't read /absent.tss2: No such file or directory"

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ({"intermediates": "/absent.pem"}, "can't read /absent.pem: No such file or directory"),
            ({"strict": True}, "web.key has mode 0644: other users can read or change it"),
            ({"endpoint": "garbage"}, "--endpoint is 'garbage', which is not an endpoint URL"),
            ({"role-session-name": "a b!"}, "--role-session-name is 'a b!', which the service refuses"),
            ({"private-key": "pkcs11:?module-path=/absent.so"}, "PKCS #11 module /absent.so does not exist"),
        ],
    )
    def test_setting_with_which_no_session_can_be_created_is_a_problem(
        self, home: Home, call: Call, values: dict[str, Any], problem: str
    ) -> None:
        (home.folder / "web.key").chmod(0o644)
        assert status(call)["web"]["works"] is None
        home.write_profiles(web=values)
        found = status(call)["web"]
        assert (found["works"], problem in found["problem"]) == (False, True)
        assert call("credential-process", "--profile", "web").status

    def test_encrypted_key_file_is_no_problem(self, home: Home, call: Call) -> None:
        home.encrypted_key("web")
        assert status(call)["web"]["problem"] is None

    @needs_long_socket_paths
    def test_key_file_that_only_the_agent_can_read_is_a_problem_without_an_agent(
        self, home: Home, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise SigningKeyError("can't read it") from PermissionError(13, "Permission denied")

        with run_agent(home) as running:
            running.get()
            monkeypatch.setattr("hwsigner._cli.status.open_key", refuse)
            assert (status(call)["web"]["works"], status(call)["web"]["problem"]) == (True, None)
        assert (status(call)["web"]["works"], status(call)["web"]["problem"]) == (False, "can't read it")

    def test_certificate_that_expires_last_is_shown_when_there_is_a_renewal(self, home: Home, call: Call) -> None:
        path = home.folder / "web.pem"
        home.write_leaf("web", certs.Shape(end=certs.ago(-1)))
        old = path.read_bytes()
        home.write_leaf("web", certs.Shape(end=certs.ago(-9)))
        new = status(call)["web"]["certificate"]
        path.write_bytes(old + path.read_bytes())
        assert status(call)["web"]["certificate"] == new

    def test_certificate_that_cannot_be_read_is_a_problem_of_its_profile_alone(self, home: Home, call: Call) -> None:
        home.write_profiles(web={}, other={"certificate": "/absent.pem"}, wrong={"no-such-flag": "x"})
        found = status(call)
        assert found["web"]["problem"] is None
        assert "/absent.pem" in found["other"]["problem"]
        assert "no-such-flag" in found["wrong"]["problem"]

    @pytest.mark.parametrize(
        ("shape", "shown", "problem"),
        [
            (certs.Shape(begin=certs.ago(3), end=certs.ago(1)), "(expired)", "expired at"),
            (certs.Shape(end=certs.ago(-0.5)), "(11 h)", ""),
            (certs.Shape(begin=certs.ago(2), end=certs.ago(-0.5)), "(11 h)", "and was not renewed"),
            (certs.Shape(digital_signature=False), "d)", "has no keyUsage digitalSignature"),
        ],
    )
    def test_certificate_that_the_service_refuses_now_or_soon_is_a_problem(
        self, home: Home, call: Call, shape: certs.Shape, shown: str, problem: str
    ) -> None:
        home.write_leaf("web", shape)
        fields = call("status").out.splitlines()[1].split("\t")
        assert fields[2].endswith(shown)
        assert problem in fields[5]
        assert bool(problem) == bool(fields[5])

    def test_certificate_that_expires_soon_is_said_with_the_alert_of_the_metrics(self, home: Home, call: Call) -> None:
        home.write_leaf("web", certs.Shape(begin=certs.ago(2), end=certs.ago(-0.5)))
        assert "alert HwsignerCertificateExpiring" in status(call)["web"]["problem"]

    @pytest.mark.parametrize(
        ("key", "place", "problem"),
        [
            ("tpm2:path=web.key", "file that can be copied", "web.key has no TSS2 PRIVATE KEY"),
            ("tpm2:path=key.tss2", "TPM", "key.tss2 is not a TSS2 PRIVATE KEY"),
            ("key.tss2", "TPM", "key.tss2 is not a TSS2 PRIVATE KEY"),
            ("tpm2:path=absent", "unknown", "can't read absent: No such file or directory"),
            ("absent", "unknown", "can't read absent: No such file or directory"),
            ("web.pem", "unknown", "web.pem has no private key"),
            (".", "unknown", "can't read .: Is a directory"),
            ("pipe", "file that can be copied", None),
        ],
    )
    def test_file_of_a_key_is_judged_by_its_content(
        self, home: Home, call: Call, key: str, place: str, problem: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(home.folder)
        (home.folder / "key.tss2").write_text(
            "-----BEGIN TSS2 PRIVATE KEY-----\nMA==\n-----END TSS2 PRIVATE KEY-----\n"
        )
        os.mkfifo(home.folder / "pipe")
        home.write_profiles(web={"private-key": key})
        found = status(call)["web"]
        assert found["key"]["place"] == place
        assert (problem or "") in (found["problem"] or "")
        assert bool(found["problem"]) == bool(problem)

    def test_key_file_of_a_tpm_is_compared_with_the_certificate(self, home: Home, call: Call, swtpm: SoftTPM) -> None:
        path = home.folder / "web.tss2"
        swtpm.create_key_file(path, "EC:P-256")
        home.write_profiles(web={"private-key": str(path)})
        assert "web.tss2 is not that of certificate" in status(call)["web"]["problem"]
        (home.folder / "web.pem").write_bytes(certs.pem(certs.issue(home.ca, swtpm.public_key(path))))
        assert status(call)["web"]["problem"] is None

    def test_key_that_only_an_agent_can_read_is_no_problem_while_one_serves_it(
        self, home: Home, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def open_denied(path: str, *_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied", path)

        for module in ("hwsigner._cli.status", "hwsigner.backends.pem"):
            monkeypatch.setattr(f"{module}.open", open_denied, raising=False)
        assert "Permission denied" in status(call)["web"]["problem"]
        served = {"web": client.ReportedProfile("system", "ready", "", "")}
        monkeypatch.setattr("hwsigner._cli.status.ask_agents", lambda _: (served, []))
        found = status(call)["web"]
        assert (found["key"]["place"], found["problem"]) == ("unknown", None)

    def test_certificate_behind_a_pin_is_no_problem(self, home: Home, call: Call) -> None:
        files = ["-in", "web.pem", "-inkey", "web.key", "-out", "web.p12"]
        command = ["openssl", "pkcs12", "-export", "-passout", "pass:x", *files]
        subprocess.run(command, cwd=home.folder, check=True)
        home.write_profiles(web={"certificate": home.folder / "web.p12", "private-key": ""})
        found = status(call)["web"]
        assert (found["certificate"], found["problem"]) == (None, None)
        assert found["key"]["place"] == "file that can be copied"

    def test_profile_without_a_certificate_is_a_problem(self, home: Home, call: Call) -> None:
        home.write_profiles(web={"certificate": ""})
        assert status(call)["web"]["problem"] == "the profile names no certificate"

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"trust-anchor-arn": "", "profile-arn": "", "role-arn": ""}, "--trust-anchor-arn is missing"),
            ({"role-arn": "web"}, "--role-arn is 'web', which is not a role ARN"),
            ({"region": "us-east-9"}, "--region is us-east-9, but the trust anchor is in"),
            ({"role-arn": "arn:aws:iam::210987654321:role/x"}, "--profile-arn is of account 123456789012, but --role"),
        ],
    )
    def test_arns_that_no_session_can_have_are_a_problem(
        self, home: Home, call: Call, changed: dict[str, str], problem: str
    ) -> None:
        home.write_profiles(web=changed)
        assert status(call)["web"]["problem"].startswith(problem)

    @pytest.mark.parametrize("place", ["pipe", "/dev/zero"])
    def test_pipe_or_device_is_not_read(self, home: Home, call: Call, place: str) -> None:
        os.mkfifo(home.folder / "pipe")
        path = home.folder / place
        home.write_profiles(web={"certificate": path}, tpm={"certificate": f"tpm2:path={path}"})
        found = status(call)
        assert found["web"]["problem"] == found["tpm"]["problem"] == f"{path} is not a regular file"

    def test_token_s_key_is_named_and_no_pin_is_sent(
        self, home: Home, call: Call, softhsm: InProcessSoftHSM, tmp_path: Path
    ) -> None:
        uri = f"pkcs11:token={softhsm.label};object=status?module-path={softhsm.module}&pin-value=wrong"
        home.write_profiles(web={"private-key": uri})
        found = json.loads(call("status", "--json").out)["profiles"][0]
        assert found["key"]["place"] == f"token {softhsm.label}"
        assert "wrong" not in json.dumps(found)

    def test_no_profiles_is_said(self, home: Home, call: Call) -> None:
        Path(home.environ["XDG_CONFIG_HOME"], "hwsigner", "config.toml").unlink()
        outcome = call("status")
        assert (outcome.status, outcome.out) == (1, "")
        assert "hwsigner enroll" in outcome.err

    def test_table_fits_80_columns(self, home: Home, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        home.write_profiles(web={}, **{"a-rather-long-name-of-a-profile": {}})
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        for command in (["status"], ["profile", "list"]):
            lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in call(*command).out.splitlines()]
            assert lines[0].split()[0] == "Profile"
            assert max(map(len, lines)) <= 80


class TestAgentStatus:
    @needs_long_socket_paths
    def test_json_has_each_profile(self, home: Home, call: Call) -> None:
        with run_agent(home) as running:
            running.get()
            data = read(call("agent", "status", "--output", "json"), "agent", alone=True)
        assert data["agent"].startswith("hwsigner ")
        (found,) = data["profiles"]
        assert (found["name"], found["state"], found["failure"]) == ("web", "ready", None)

    def test_other_commands_print_no_json(self, home: Home, call: Call) -> None:
        outcome = call("agent", "lock", "--json")
        assert (outcome.status, outcome.out) == (2, "")


class TestWhoami:
    def test_arn_is_the_one_that_sts_returns(self, home: Home, call: Call) -> None:
        outcome = call("whoami", "--profile", "web", "--json")
        assert (outcome.status, outcome.err) == (0, "")
        found = read(outcome, "whoami")
        assert ":assumed-role/hwsigner-demo/" in found["Arn"]
        assert found["Account"] == "123456789012"
        assert call("whoami", "--profile=web").out.startswith(f"Arn      {found['Arn']}\n")

    @pytest.mark.slow
    @pytest.mark.parametrize(("fault", "expected"), [("deny*9", 5), ("reset*9", 6)])
    def test_error_of_the_session_has_its_status_and_hint(
        self, home: Home, call: Call, fault: str, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hwsigner.botocore._sources", {})
        home.emulator.misbehave(Fault.parse(fault))
        outcome = call("whoami", "--profile=web")
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (expected, "", 1)

    def test_missing_profile_of_the_sdks_is_named_with_its_variable(
        self, home: Home, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nosuch")
        outcome = call("whoami", "--profile=web")
        assert (outcome.status, outcome.out) == (2, "")
        assert "nosuch" in outcome.err
        assert "AWS_PROFILE" in outcome.err

    def test_missing_profile_is_an_error(self, home: Home, call: Call) -> None:
        outcome = call("whoami")
        assert (outcome.status, outcome.out) == (2, "")
        assert "--profile NAME" in outcome.err
        assert "no profile 'absent'" in call("whoami", "--profile=absent").err
