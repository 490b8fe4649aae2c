"""`hwsigner enroll`: from nothing to a role, run again, killed anywhere, and with an issuer that misbehaves.

The CA is openssl, the service is the emulator, and boto3 reads what was written for the SDKs.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography import x509

import certs
import judges
from emulators import InProcessSoftHSM
from enrolments import SUBJECT, Enrolment, refused, succeeds
from hwsigner._config import profiles
from hwsigner._config.sharing import share_file
from hwsigner._pins import PinRequest, PinSource
from hwsigner._system import systemd, users
from hwsigner._system.new_files import create_file
from hwsigner._uri import KeyURI
from hwsigner.enrolment import initial, pace, profile, steps
from hwsigner.key.management import KeyDescription
from judges import needs_linux, needs_namespaces, needs_systemd
from softhsm.command import run as run_tool
from softhsm.pcsc import SoftPcsc
from softhsm.tpm import SoftTPM
from softhsm.yubikey import FIRMWARE_5_7, YKCS11, YubiKey
from yubikeys import forget_cards

MANAGEMENT_KEY = "0102030405060708" * 3


class TestWay:
    @pytest.mark.slow
    def test_one_command_goes_from_nothing_to_a_role(self, enrolment: Enrolment) -> None:
        rows = succeeds(enrolment.run("--dns", "bamboo-01.example.com"))
        assert "made now" in rows["Key"]
        assert rows["Place"] == f"the file {enrolment.key}, from which it can be copied"
        assert "issued now" in rows["Certified"]
        assert rows["Next"] == "aws sts get-caller-identity --profile web"
        assert enrolment.gets_credentials()
        assert boto3.Session(profile_name="web").region_name == "us-east-1"
        assert (enrolment.config.stat().st_mode, enrolment.aws_config.stat().st_mode) == (0o100600, 0o100600)

    def test_key_whose_name_means_hardware_is_refused_and_nothing_is_written(self, enrolment: Enrolment) -> None:
        enrolment.key = str(Path(enrolment.key).with_name("web.tss2"))
        refused = enrolment.run()
        assert (refused.status, refused.out) == (2, "")
        assert f"Write tpm2:path={enrolment.key}, or file:{enrolment.key}" in refused.err
        assert not enrolment.config.exists()
        assert not Path(enrolment.key).exists()

    def test_second_run_changes_nothing_and_needs_no_flags(self, enrolment: Enrolment) -> None:
        succeeds(enrolment.run())
        files = [Path(enrolment.key), enrolment.certificate, enrolment.config, enrolment.aws_config]
        before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
        for rows in (succeeds(enrolment.run()), succeeds(enrolment.again())):
            assert "already there" in rows["Key"]
            assert "already there" in rows["Certified"]
        assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before
        assert enrolment.issued == 1

    @pytest.mark.slow
    def test_token_key_gets_a_role(
        self, enrolment: Enrolment, softhsm: InProcessSoftHSM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pin = enrolment.scene.write("pin", softhsm.pin.encode())
        query = f"module-path={softhsm.module}&pin-source=file:{pin}"
        enrolment.key = f"pkcs11:token={softhsm.label};object=enroll?{query}"
        rows = succeeds(enrolment.run())
        assert rows["Key"].endswith(", made now")
        assert rows["Place"] == f"token '{softhsm.label}'"
        assert enrolment.gets_credentials()
        assert "already there" in succeeds(enrolment.again())["Certified"]
        assert enrolment.issued == 1

    @pytest.mark.slow
    def test_tpm_key_gets_a_role(self, enrolment: Enrolment, swtpm: SoftTPM) -> None:
        enrolment.key = str(enrolment.home / "keys" / "web.pem")
        succeeds(enrolment.run(f"--private-key=tpm2:path={enrolment.key}", f"--tcti={swtpm.tcti}"))
        assert enrolment.gets_credentials()
        assert "already there" in succeeds(enrolment.again())["Certified"]

    @pytest.mark.slow
    def test_tpm_handle_without_a_place_for_the_certificate_is_refused_before_one_is_issued(
        self, enrolment: Enrolment, swtpm: SoftTPM
    ) -> None:
        enrolment.key = "handle:0x81000dea"
        refused(enrolment.run(), 2, "there is no file beside tpm2:handle=0x81000dea", "--nv-index 0x01c20000")
        assert enrolment.issued == 0

    @pytest.mark.slow
    def test_tpm_key_at_a_handle_has_its_certificate_in_the_tpm(
        self, enrolment: Enrolment, cleaned_tpm: SoftTPM
    ) -> None:
        enrolment.key = "handle:0x81000def"
        succeeds(enrolment.run(f"--tcti={cleaned_tpm.tcti}", "--nv-index=0x01500def"))
        assert enrolment.profile()["certificate"].startswith("tpm2:nv=0x01500def")
        assert enrolment.gets_credentials()
        assert "already there" in succeeds(enrolment.again())["Certified"]
        assert enrolment.issued == 1

    @pytest.mark.slow
    def test_expired_certificate_is_replaced(self, enrolment: Enrolment) -> None:
        succeeds(enrolment.run())
        key = Path(enrolment.key).read_bytes()
        old = x509.load_pem_x509_certificate(enrolment.certificate.read_bytes())
        expired = certs.issue(enrolment.scene.ca, old.public_key(), certs.Shape(end=certs.ago(0.5)))
        enrolment.certificate.write_bytes(certs.pem(expired))
        assert "issued now" in succeeds(enrolment.again())["Certified"]
        assert Path(enrolment.key).read_bytes() == key
        assert enrolment.gets_credentials()

    def test_other_name_gets_another_certificate_for_the_same_key(self, enrolment: Enrolment) -> None:
        succeeds(enrolment.run())
        rows = succeeds(enrolment.again("--subject", "CN=bamboo-02"))
        assert "already there" in rows["Key"]
        assert rows["Certified"].startswith("CN=bamboo-02, ")
        assert enrolment.profile()["subject"] == "CN=bamboo-02"

    def test_rest_of_the_config_files_is_kept(self, enrolment: Enrolment) -> None:
        enrolment.config.parent.mkdir(parents=True, mode=0o700)
        enrolment.config.write_text('# mine\n[profile.other]\nrole-arn = "a"  # text\n')
        enrolment.aws_config.parent.mkdir()
        enrolment.aws_config.write_text("[default]\nregion=eu-central-1\n[profile web]\n  # text\noutput = json\n")
        succeeds(enrolment.run())
        assert enrolment.config.read_text().startswith('# mine\n[profile.other]\nrole-arn = "a"  # text\n')
        lines = enrolment.aws_config.read_text().splitlines()
        assert lines[:3] + lines[4:] == [
            *("[default]", "region=eu-central-1", "[profile web]", "  # text", "output = json")
        ]

    def test_aws_config_is_left_alone_on_request(self, enrolment: Enrolment) -> None:
        assert "SDKs" not in succeeds(enrolment.run("--no-aws-config"))
        assert not enrolment.aws_config.exists()


# What changes something, and so what a kill can come before or after.
STEPS = [
    *(
        "add_profile",
        "ensure_key",
        "sign_request",
        "request_certificate",
        "install",
        "change_profile",
        "edit_config_file",
    ),
]


class TestAgent:
    """For a key that needs a person, the first use of the profile starts an agent."""

    @pytest.fixture
    def typed(self, enrolment: Enrolment, softhsm: InProcessSoftHSM, monkeypatch: pytest.MonkeyPatch) -> Enrolment:
        """An enrolment of a token's key, whose PIN a person types."""
        monkeypatch.setattr("hwsigner._pins.terminal.ask_pin", lambda request: softhsm.pin)
        enrolment.key = f"pkcs11:token={softhsm.label};object=typed?module-path={softhsm.module}"
        return enrolment

    def test_agent_starts_if_the_pin_is_typed(self, typed: Enrolment) -> None:
        rows = succeeds(typed.run())
        assert rows["Note"] == profile.STARTS_AGENT_NOTE
        assert typed.profile()["agent"] == "auto"
        succeeds(typed.again())
        assert typed.profile()["agent"] == "auto"
        succeeds(typed.again("--agent=none"))
        assert "agent" not in typed.profile()

    @needs_linux
    def test_agent_does_not_start_on_request_or_for_a_stored_pin_or_in_the_system_s_file(
        self, typed: Enrolment, softhsm: InProcessSoftHSM
    ) -> None:
        succeeds(typed.run("--agent=none"))
        assert "agent" not in typed.profile()
        pin = typed.scene.write("pin", softhsm.pin.encode())
        succeeds(typed.again(f"--private-key={typed.key}&pin-source=file:{pin}"))
        assert "agent" not in typed.profile()
        typed.config.unlink()
        succeeds(typed.run("--system"))
        assert "\nagent =" not in Path(profiles.SYSTEM_FILE).read_text()

    def test_agent_does_not_start_for_a_key_file(self, enrolment: Enrolment) -> None:
        succeeds(enrolment.run())
        assert "agent" not in enrolment.profile()

    @pytest.mark.parametrize(
        ("properties", "needs"),
        [
            ({"touchPolicy": "always"}, True),
            ({"touchPolicy": "cached"}, True),
            ({"touchPolicy": "never"}, False),
            ({"touchPolicy": None}, False),
            ({}, False),
        ],
    )
    def test_touch_needs_a_person(self, properties: dict[str, str | None], needs: bool) -> None:
        key = KeyDescription("pkcs11:", "a token", None, properties=properties)
        assert profile.is_for_person(key, PinSource()) is needs

    def test_management_key_and_empty_auth_value_need_no_person(self) -> None:
        key = KeyDescription("pkcs11:", "a token", None)
        given = {"management key": ("01", False), "TPM auth value": ("", False), "user PIN": ("1", True)}
        for kind, (pin, needs) in given.items():
            pins = PinSource(prompts=[dict.fromkeys([PinRequest(kind, "it")], pin).get])
            assert pins.get(KeyURI.of("handle:0x81000001"), PinRequest(kind, "it")) == pin
            assert profile.is_for_person(key, pins) is needs


class TestKilled:
    @pytest.mark.slow
    @pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("step", STEPS)
    def test_next_run_goes_on_where_the_last_one_was_killed(
        self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch, step: str, is_done: bool
    ) -> None:
        original = getattr(initial, step)

        def killed(*arguments: Any, **more: Any) -> Any:
            if "write" in more:  # It only looks whether the file can be written.
                return original(*arguments, **more)
            if is_done:
                original(*arguments, **more)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(initial, step, killed)
            assert enrolment.run().status == 130
        key = Path(enrolment.key)
        before = [file.read_bytes() for file in (key, enrolment.certificate) if file.exists()]
        succeeds(enrolment.run())
        after = [file.read_bytes() for file in (key, enrolment.certificate)]
        assert after[: len(before)] == before
        assert enrolment.gets_credentials()
        # Only a certificate that was not put in place yet is issued again.
        assert enrolment.issued == (2 if (step, is_done) in (("request_certificate", True), ("install", False)) else 1)

    @pytest.mark.slow
    @pytest.mark.parametrize("number", range(1, 13))
    def test_next_run_with_a_tpm_goes_on_after_a_kill_before_or_after_a_file_is_in_place(
        self, enrolment: Enrolment, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(enrolment.home / "state"))
        enrolment.key = str(enrolment.home / "keys" / "web.pem")
        flags = [f"--private-key=tpm2:path={enrolment.key}", f"--tcti={swtpm.tcti}"]
        # Before and after: the profile, the pinned storage root key, the key, the certificate, the whole profile, and
        # the SDKs' file.
        kill = ["strace", "-o", "/dev/null", "-e", f"inject=fsync:signal=SIGKILL:when={number}"]
        killed = [*kill, sys.executable, "-m", "hwsigner", *enrolment.arguments(*flags)]
        assert subprocess.run(killed, capture_output=True).returncode == -signal.SIGKILL
        for kind in ("--transient-object", "--loaded-session"):  # As a resource manager does.
            run_tool(["tpm2_flushcontext", kind], swtpm.env)
        key = Path(enrolment.key).read_bytes() if number > 5 else None
        succeeds(enrolment.run(*flags))
        assert key in (None, Path(enrolment.key).read_bytes())
        assert enrolment.issued == (2 if number == 7 else 1)
        assert enrolment.gets_credentials()

    @pytest.mark.slow
    def test_processes_killed_at_random_leave_one_key_and_one_certificate(self, enrolment: Enrolment) -> None:
        command = [sys.executable, "-m", "hwsigner", *enrolment.arguments()]
        key = None
        for _ in range(12):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(0.1, 0.8))
            process.kill()
            process.wait()
            if key is None and Path(enrolment.key).exists():
                key = Path(enrolment.key).read_bytes()
        succeeds(enrolment.run())
        assert key in (None, Path(enrolment.key).read_bytes())
        assert enrolment.gets_credentials()
        assert sorted(path.name for path in Path(enrolment.key).parent.iterdir() if path.name[0] != ".") == [
            *("web.crt", "web.key")
        ]

    @pytest.mark.slow
    def test_two_at_once_make_one_key_and_one_certificate(self, enrolment: Enrolment) -> None:
        command = [sys.executable, "-m", "hwsigner", *enrolment.arguments()]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
        outputs = [process.communicate() for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
        assert sorted("made now" in output for output, _ in outputs) == [False, True]
        assert enrolment.issued == 1

    def test_enrolment_that_another_one_keeps_from_running_exits_with_status_7(
        self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(profile, "LOCK_TIMEOUT", 0.0)
        with profile.profile_lock("web", str(enrolment.config)):
            refused(enrolment.run(), 7, "another hwsigner enroll or renew of web is running")


class TestIssuer:
    def test_issuer_that_has_no_certificate_yet_is_asked_again(
        self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(steps, "_FIRST_PAUSE", 1000.0)
        waits = f"test -e {enrolment.home}/ready || exit 75"
        refused(
            enrolment.run(f"--issuer-command={enrolment.issuer(before=waits)}"),
            5,
            "has no certificate yet. Run the same command again",
        )
        key = Path(enrolment.key).read_bytes()
        (enrolment.home / "ready").touch()
        succeeds(enrolment.again())
        assert Path(enrolment.key).read_bytes() == key

    def test_issuer_is_not_asked_if_there_is_no_place_for_its_certificate(self, enrolment: Enrolment) -> None:
        enrolment.certificate.write_bytes((enrolment.home / "ca.pem").read_bytes())
        asked = enrolment.home / "asked"
        command = enrolment.issuer(before=f"touch {asked}")
        refused(enrolment.run(f"--issuer-command={command}"), 4, "is not a certificate of this key", "Move that file")
        assert not asked.exists()

    def test_issuer_is_waited_for(self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steps, "_FIRST_PAUSE", 0.01)
        waits = f"test -e {enrolment.home}/asked || {{ touch {enrolment.home}/asked; exit 75; }}"
        succeeds(enrolment.run(f"--issuer-command={enrolment.issuer(before=waits)}"))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "status", "message"),
        [
            ("echo no such machine >&2; exit 1", 5, "exited with status 1: no such machine"),
            ("kill -9 $$", 5, "was killed by signal 9"),
            ("true", 4, "has no certificate"),
            ("cat {ca}", 4, "is for another key"),
            ("openssl x509 -req -CA {ca} -CAkey {key} -subj /CN=other -days 2", 4, "has another subject"),
            (
                "openssl x509 -req -CA {ca} -CAkey {key} -not_before 20990101000000Z -not_after 20990102000000Z",
                4,
                "is not valid before",
            ),
        ],
    )
    def test_old_certificate_stays_in_use_when_the_issuer_fails(
        self, enrolment: Enrolment, text: str, status: int, message: str
    ) -> None:
        succeeds(enrolment.run())
        files = [Path(enrolment.key), enrolment.certificate, enrolment.config]
        before = [file.read_bytes() for file in files]
        command = shlex.join(["sh", "-c", text.format(ca=enrolment.home / "ca.pem", key=enrolment.home / "ca.key")])
        refused(enrolment.again("--subject=CN=bamboo-02", f"--issuer-command={command}"), status, message)
        assert [file.read_bytes() for file in files] == before
        assert enrolment.gets_credentials()


FULL = """
set -e
keys=$1 old=$2; shift 2
mount -t tmpfs -o size=16k tmpfs "$keys"
cp "$old"/* "$keys"
dd if=/dev/zero of="$keys/full" 2> "$keys/../dd" || true
status=0; "$@" || status=$?
cmp "$old/web.key" "$keys/web.key"
cmp "$old/web.crt" "$keys/web.crt"
exit $status
"""


@pytest.mark.slow
@needs_namespaces
def test_old_certificate_stays_when_the_disk_is_full(enrolment: Enrolment) -> None:
    succeeds(enrolment.run())
    keys, old = Path(enrolment.key).parent, enrolment.home / "old"
    shutil.copytree(keys, old)
    command = [sys.executable, "-m", "hwsigner", "enroll", "web", "--subject=CN=bamboo-02"]
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c", FULL, "sh", str(keys), str(old)]
    ran = subprocess.run([*unshare, *command], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == f"hwsigner: can't write {keys}/web.crt: No space left on device. The file was not changed\n"
    assert enrolment.profile()["subject"] == SUBJECT


class TestRefused:
    @pytest.mark.slow
    @judges.needs_libykcs11
    def test_management_key_of_a_yubikey_is_not_sent_as_its_pin(
        self, enrolment: Enrolment, pcsc: SoftPcsc, new_yubikey: Callable[..., YubiKey]
    ) -> None:
        yubikey = new_yubikey(FIRMWARE_5_7)
        yubikey.insert(pcsc)
        forget_cards()
        management = enrolment.scene.write("management", MANAGEMENT_KEY.encode())
        enrolment.key = f"{yubikey.uri(0x82, YKCS11)}&pin-source=file:{management}"
        refused(enrolment.run(), 2, "a PIV slot is written with the management key and used with the PIN")
        assert not yubikey.pin_tries

    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--private-key=", "no key is named"),
            ("--subject=", "no subject was given"),
            ("--subject=bamboo", "the subject 'bamboo' is invalid"),
            ("--issuer=acme", "there is no issuer 'acme'"),
            ("--issuer=est", "the issuer's URL is missing"),
            ("--role-arn=web", "--role-arn is 'web', which is not a role ARN"),
            ("--region=eu-west-1", "but the trust anchor is in us-east-1"),
            ("--algorithm=dsa", "--algorithm is 'dsa'"),
        ],
    )
    def test_wrong_flags_change_nothing(self, enrolment: Enrolment, flag: str, message: str) -> None:
        refused(enrolment.run(flag), 2, message)
        assert not Path(enrolment.key).exists()
        assert not enrolment.config.exists()

    def test_other_credential_process_is_an_error_before_a_key_is_made(self, enrolment: Enrolment) -> None:
        enrolment.aws_config.parent.mkdir()
        enrolment.aws_config.write_text("[profile web]\ncredential_process = /usr/bin/other\n")
        refused(enrolment.run(), 2, "has another credential_process")
        assert not Path(enrolment.key).exists()

    def test_access_key_that_would_be_preferred_is_an_error(self, enrolment: Enrolment) -> None:
        (enrolment.home / "none").write_text("[web]\naws_access_key_id = AKIAEXAMPLE\n")
        refused(enrolment.run(), 2, "[web] of", "has an access key")
        assert not Path(enrolment.key).exists()
        succeeds(enrolment.run("--no-aws-config"))

    def test_profile_whose_enrolment_was_not_finished_says_how_to_go_on(self, enrolment: Enrolment) -> None:
        refused(enrolment.run("--issuer-command=false"), 5, "exited with status 1")
        refused(enrolment.scene.call("credential-process", "--profile", "web"), 2, "Run hwsigner enroll web")

    def test_program_on_the_path_is_not_taken_for_a_file_here(
        self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "false").write_text("#!/bin/sh\n")  # Another user's, as in /tmp.
        monkeypatch.chdir(tmp_path)
        refused(enrolment.run("--issuer-command=false"), 5, "exited with status 1")
        assert enrolment.profile()["issuer-command"] == "false"

    def test_issuer_command_replaces_the_issuer_that_an_earlier_run_named(self, enrolment: Enrolment) -> None:
        refused(enrolment.run("--issuer=vault", "--issuer-url=https://ca.example.com/v1/pki/sign/web"), 2, "secret")
        succeeds(enrolment.again(f"--issuer-command={enrolment.issuer()}"))
        assert enrolment.profile()["issuer"] == "command"

    def test_missing_issuer_is_an_error(self, enrolment: Enrolment) -> None:
        refused(enrolment.run("--issuer-command="), 2, "no issuer was given")

    def test_secret_of_the_issuer_is_kept_as_its_place_alone(
        self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", "hunter2")
        flags = ("--issuer=vault", "--issuer-url=http://127.0.0.1:1/v1/pki/sign/web", "--issuer-secret=env:TOKEN")
        refused(enrolment.run(*flags), 6, "127.0.0.1:1")
        assert enrolment.profile()["issuer-secret"] == "env:TOKEN"
        assert "hunter2" not in enrolment.config.read_text()

    @pytest.mark.parametrize("place", ["env:NOPE", "file:/nowhere"])
    def test_secret_that_can_t_be_read_names_its_flag(self, enrolment: Enrolment, place: str) -> None:
        flags = ("--issuer=vault", "--issuer-url=http://127.0.0.1:1/v1/pki/sign/web", f"--issuer-secret={place}")
        refused(enrolment.run(*flags), 3, "the secret of --issuer-secret can't be read: ")

    @pytest.mark.parametrize(
        "flag", ["--issuer-secret=hunter2", "--issuer-url=https://admin:hunter2@127.0.0.1:1/v1/pki/sign/web"]
    )
    def test_secret_that_is_no_place_of_one_is_neither_kept_nor_shown(self, enrolment: Enrolment, flag: str) -> None:
        outcome = enrolment.run("--issuer=vault", "--issuer-url=http://127.0.0.1:1/v1/pki/sign/web", flag)
        refused(outcome, 2)
        assert "hunter2" not in outcome.err
        assert not enrolment.config.exists()

    def test_pin_source_that_is_a_pin_is_not_kept(self, enrolment: Enrolment) -> None:
        enrolment.key = f"file:{enrolment.key}?pin-source=hunter2"
        outcome = enrolment.run()
        assert outcome.status != 0
        assert "hunter2" not in outcome.err
        assert not enrolment.config.exists()

    def test_pin_on_the_command_line_is_not_kept(self, enrolment: Enrolment) -> None:
        outcome = enrolment.run("--pkcs8-password=hunter2")
        assert outcome.status == 0
        assert "hunter2" not in enrolment.config.read_text()
        assert b"ENCRYPTED" in Path(enrolment.key).read_bytes()


@pytest.mark.slow
def test_missing_arns_are_named(enrolment: Enrolment) -> None:
    rows = succeeds(
        enrolment.scene.call(
            "enroll",
            "web",
            f"--private-key={enrolment.key}",
            f"--subject={SUBJECT}",
            f"--issuer-command={enrolment.issuer()}",
        )
    )
    assert rows["Missing"].endswith("with --trust-anchor-arn, --profile-arn, --role-arn")
    succeeds(enrolment.again(*enrolment.scene.flags(certificate=None, private_key=None)))
    assert enrolment.gets_credentials()


class TestShortLife:
    def test_life_under_the_shortest_is_refused_with_the_reason_and_the_key_stays(
        self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(pace, "_SHORTEST_LIFE", 3 * 86400)
            refused(enrolment.run(), 4, "lives 172800 s", "must allow 259200 s or more. Nothing was installed")
        assert not enrolment.certificate.exists()
        assert "already there" in succeeds(enrolment.again())["Key"]
        assert enrolment.gets_credentials()

    @needs_systemd
    def test_way_to_renew_is_printed_if_no_timer_can_be_set(
        self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pace, "_UNIT_STEP", 86400)
        monkeypatch.setattr(systemd, "_BOOTED", "/absent")
        said = "systemd does not run here: run hwsigner renew --if-due web every 4320 s"
        assert succeeds(enrolment.run())["Timer"] == said
        assert json.loads(enrolment.again("--json").out)["timer"] == said


@needs_linux
class TestSystem:
    def test_agent_gets_a_new_key_file_and_no_file_that_a_link_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(users, "agent_group", os.getegid)
        key, link = tmp_path / "web.tss2", tmp_path / "link.tss2"
        create_file(str(key), b"")
        link.symlink_to(key)
        for path, mode in ((link, 0o600), (key, 0o640)):
            share_file(str(path))
            assert stat.S_IMODE(key.stat().st_mode) == mode

    def test_profile_goes_into_the_system_s_file_and_no_user_s_files_are_written(self, enrolment: Enrolment) -> None:
        rows = succeeds(enrolment.run("--system"))
        file = Path(profiles.SYSTEM_FILE)
        assert rows["Profile"] == f"{file}: [profile.web]"
        assert rows["Next"] == "systemctl enable --now hwsigner-renew@web.timer"
        assert "SDKs" not in rows
        assert not enrolment.config.exists()
        assert not enrolment.aws_config.exists()
        assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o007) == (0o755, 0)
        assert "already there" in succeeds(enrolment.again())["Certified"]
        assert enrolment.scene.call("credential-process", "--profile", "web").status == 0

    def test_agent_s_group_may_read_a_new_file_and_a_new_key(
        self, enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(users, "agent_group", lambda: 12345)
        succeeds(enrolment.run("--system"))
        for path in (profiles.SYSTEM_FILE, enrolment.key):
            status = Path(path).stat()
            assert (status.st_gid, status.st_mode & 0o777) == (12345, 0o640)

    @pytest.mark.slow
    @pytest.mark.root
    def test_agent_s_group_may_read_a_new_tpm_key_and_a_changed_mode_stays(
        self, enrolment: Enrolment, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(users, "agent_group", lambda: 12345)
        first, second = (str(Path(enrolment.key).with_name(name)) for name in ("first.tss2", "second.tss2"))
        enrolment.key, enrolment.flags = f"tpm2:path={first}", ["--tcti", swtpm.tcti]
        succeeds(enrolment.run("--system"))
        Path(profiles.SYSTEM_FILE).write_text(Path(profiles.SYSTEM_FILE).read_text().replace("-days 2", "-days 3"))
        succeeds(enrolment.scene.call("renew", "web", "--new-key", f"tpm2:path={second}"))
        for status in map(os.stat, (first, second)):
            assert (status.st_gid, status.st_mode & 0o777) == (12345, 0o640)
        os.chmod(second, 0o400)
        succeeds(enrolment.again("--system"))
        assert os.stat(second).st_mode & 0o777 == 0o400

    def test_profile_of_the_user_is_not_moved(self, enrolment: Enrolment) -> None:
        succeeds(enrolment.run())
        refused(enrolment.again("--system"), 2, "is in", "Leave out --system")

    def test_renewal_changes_the_system_s_file(self, enrolment: Enrolment) -> None:
        succeeds(enrolment.run("--system"))
        enrolment.config.parent.mkdir(parents=True)
        text = Path(profiles.SYSTEM_FILE).read_text()
        Path(profiles.SYSTEM_FILE).write_text(text.replace("-days 2", "-days 3"))
        rows = succeeds(enrolment.scene.call("renew", "web"))
        assert rows["Profile"].startswith(str(profiles.SYSTEM_FILE))
        assert not list(enrolment.config.parent.iterdir())
