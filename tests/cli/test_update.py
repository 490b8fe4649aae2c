"""`hwsigner update`: once and continuously, against the emulator; the AWS CLI and boto3 read what it writes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from botocore.configloader import raw_config_parse
from botocore.exceptions import ConfigParseError

from hwsigner._aws.credentials import Credentials
from hwsigner._cli.update import Updater
from hwsigner.emulator import Fault
from hwsigner.errors import CertificateError, HwsignerError, PinRequiredError, ServiceError, UsageError
from scene import Outcome, Scene

ROOT = Path(__file__).parents[2]
AWS = "/usr/bin/aws"


@pytest.fixture
def file(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The credentials file, which does not exist."""
    path = scene.folder / "aws" / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(scene.folder / "config"))
    return path


def update(scene: Scene, *flags: str, **instead: str | Path | None) -> Outcome:
    return scene.call("update", "--once", *scene.flags(**instead), *flags)


def caller(scene: Scene, profile: str) -> str:
    """Return the ARN of the caller that a profile of the credentials file authenticates."""
    found = boto3.Session(profile_name=profile, region_name="us-east-1")
    arn: str = found.client("sts", endpoint_url=scene.emulator.url).get_caller_identity()["Arn"]
    return arn


class TestOnce:
    def test_default_section_is_written_and_reported_in_one_line(self, scene: Scene, file: Path) -> None:
        outcome = update(scene)
        assert (outcome.status, outcome.out) == (0, "")
        assert re.fullmatch(
            rf"hwsigner: wrote \[default\] of {file}, good until \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n", outcome.err
        )
        assert ":assumed-role/" in caller(scene, "default")
        assert file.read_text().startswith("[default]\naws_access_key_id = ASIA")

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
    def test_file_that_others_can_read_is_warned_of_and_keeps_its_mode(
        self, scene: Scene, file: Path, mode: int
    ) -> None:
        file.parent.mkdir()
        file.touch()
        file.chmod(mode)
        outcome = update(scene)
        assert (outcome.status, file.stat().st_mode & 0o777) == (0, mode)
        warning = f"hwsigner: warning: {file} has mode {mode:04o}: other users can read the credentials in it. "
        assert outcome.err.startswith(f"{warning}Run chmod 600 {file}\n")
        before = file.read_bytes()
        assert update(scene, "--strict").status == 3
        assert file.read_bytes() == before

    @pytest.mark.parametrize(
        ("old", "problem"),
        [
            (b"[other]\nregion = a\n[default]\n[other]\n", "has a second [other] in line 7"),
            (b"[other]\nregion = a\nregion = b\n", "has a second region in [other], in line 3"),
            (b"\xef\xbb\xbf[other]\n", "begins with a byte order mark"),
            (b"password\n[other]\n", "has a setting before the first section, in line 1"),
        ],
    )
    def test_file_that_botocore_can_t_read_is_warned_of_and_with_strict_it_stays(
        self, scene: Scene, file: Path, old: bytes, problem: str
    ) -> None:
        file.parent.mkdir(mode=0o700)
        file.touch(mode=0o600)
        file.write_bytes(old)
        message = f"{file} {problem}, so the AWS CLI and boto3 can't read it. Fix it in an editor"
        strict = update(scene, "--strict")
        assert (strict.status, strict.err, file.read_bytes()) == (1, f"hwsigner: {message}\n", old)
        outcome = update(scene)
        assert (outcome.status, outcome.err.splitlines()[0]) == (0, f"hwsigner: warning: {message}")
        with pytest.raises(ConfigParseError):
            raw_config_parse(str(file))
        assert b"ASIA" in file.read_bytes()

    def test_file_that_botocore_can_read_again_once_written_is_not_warned_of(self, scene: Scene, file: Path) -> None:
        file.parent.mkdir(mode=0o700)
        file.touch(mode=0o600)
        file.write_text("[DEFAULT]\n[default]\naws_access_key_id = a\naws_access_key_id = b\n[DEFAULT]\n")
        assert update(scene).err.startswith(f"hwsigner: wrote [default] of {file}")
        assert raw_config_parse(str(file))["default"]["aws_access_key_id"].startswith("ASIA")

    def test_profile_names_the_section_and_config_profile_the_flags(self, scene: Scene, file: Path) -> None:
        scene.call("profile", "add", "table", *scene.flags())
        file.parent.mkdir()
        file.write_text("# mine\n[default]\naws_access_key_id = AKIAOLD\n")
        outcome = scene.call(
            "update", "--once", "--config-profile", "table", "--profile", "web", "--session-duration=900"
        )
        assert outcome.status == 0
        assert file.read_text().startswith("# mine\n[default]\naws_access_key_id = AKIAOLD\n\n[web]\n")
        assert ":assumed-role/" in caller(scene, "web")
        assert b'"durationSeconds":900' in scene.emulator.requests[0].body.replace(b" ", b"")

    def test_session_that_is_shorter_than_asked_is_reported(self, scene: Scene, file: Path) -> None:
        outcome = update(scene, "--session-duration=43200", "--strict")
        assert (outcome.status, outcome.err.count("lasts 60 minutes, not 720 minutes")) == (0, 1)

    def test_profile_does_not_name_a_profile_of_config_toml(self, scene: Scene, file: Path) -> None:
        scene.call("profile", "add", "web", *scene.flags())
        outcome = scene.call("update", "--once", "--profile", "web")
        assert outcome.status == 2
        assert "Give --config-profile NAME: --profile names the section to write" in outcome.err
        assert not file.parent.exists()

    @pytest.mark.slow
    def test_aws_cli_uses_the_credentials(self, scene: Scene, file: Path) -> None:
        update(scene, "--profile=web")
        command = [AWS, "sts", "get-caller-identity", "--profile=web", "--region=us-east-1", "--output=text"]
        done = subprocess.run(
            [*command, f"--endpoint-url={scene.emulator.url}"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert ":assumed-role/" in done.stdout

    def test_empty_profile_is_the_default_section(self, scene: Scene, file: Path) -> None:
        assert update(scene, "--profile=").status == 0
        assert file.read_text().startswith("[default]\n")

    def test_default_file_is_in_the_home_folder(
        self, scene: Scene, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
        monkeypatch.setenv("HOME", str(scene.folder / "home"))
        assert update(scene).status == 0
        assert (scene.folder / "home" / ".aws" / "credentials").stat().st_mode & 0o777 == 0o600
        assert (scene.folder / "home" / ".aws").stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("name", ["a]", "a\nb", "DEFAULT", " a"])
    def test_invalid_section_name_is_a_usage_error(self, scene: Scene, file: Path, name: str) -> None:
        outcome = update(scene, f"--profile={name}")
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert "--profile" in outcome.err
        assert scene.emulator.requests == []

    @pytest.mark.parametrize(("fault", "status"), [("deny", 5), ("no-credentials", 5), ("past-expiration", 5)])
    def test_file_is_not_changed_when_there_are_no_credentials(
        self, scene: Scene, file: Path, fault: str, status: int
    ) -> None:
        assert update(scene).status == 0
        before, number = file.read_bytes(), file.stat().st_ino
        scene.emulator.misbehave(Fault.parse(fault))
        outcome = update(scene)
        assert (outcome.status, outcome.err.count("\n")) == (status, 1)
        assert (file.read_bytes(), file.stat().st_ino) == (before, number)

    def test_folder_in_place_of_the_file_is_an_error(self, scene: Scene, file: Path) -> None:
        file.mkdir(parents=True)
        outcome = update(scene)
        assert outcome.status == 1
        hint = "Give a regular file, or a path that does not exist yet"
        assert outcome.err == f"hwsigner: {file} is not a regular file. {hint}\n"

    def test_invalid_flag_is_a_usage_error(self, scene: Scene, file: Path) -> None:
        assert update(scene, "--session-duration=1").status == 2
        assert update(scene, certificate=None).status == 2
        assert update(scene, role_arn="arn").status == 2

    def test_no_verify_ssl_is_refused_for_another_machine(self, scene: Scene, file: Path) -> None:
        outcome = update(scene, "--no-verify-ssl", endpoint="https://192.0.2.1")
        assert outcome.status == 2
        assert "no-verify-ssl" in outcome.err
        assert scene.emulator.requests == []
        assert update(scene, "--no-verify-ssl").status == 0

    def test_debug_shows_no_secret(self, scene: Scene, file: Path) -> None:
        outcome = update(scene, "--debug")
        _, _, secret, token = (line.rpartition(" = ")[2] for line in file.read_text().splitlines())
        assert secret
        assert token
        assert secret not in outcome.err
        assert token not in outcome.err


# Asks the provider more often than usual.
HURRY = "import sys; from hwsigner._cli import main, update; update._PAUSE = 0.05; sys.exit(main())"


@contextmanager
def running(scene: Scene, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Run update without --once, with its stderr in a pipe."""
    command = [sys.executable, "-c", HURRY, "update", *scene.flags(), *flags]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    return process.stderr.readline()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


class TestContinuously:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_update_writes_and_runs_until_a_signal_ends_it_with_status_0(
        self, scene: Scene, file: Path, number: signal.Signals
    ) -> None:
        with running(scene, "--profile=web") as process:
            assert next_line(process).startswith(f"hwsigner: wrote [web] of {file}, good until ")
            assert process.poll() is None
            process.send_signal(number)
            assert ended(process) == (0, "", "")
        assert ":assumed-role/" in caller(scene, "web")
        assert sorted(os.listdir(file.parent)) == [".credentials.hwsigner-lock", "credentials"]

    @pytest.mark.slow
    def test_failed_refresh_leaves_the_last_credentials(self, scene: Scene, file: Path) -> None:
        # The first session lives for two seconds or less; then the service refuses once.
        scene.emulator.misbehave(Fault.parse("past-expiration:seconds=-2"), Fault.parse("deny"))
        with running(scene) as process:
            assert "wrote [default]" in next_line(process)
            first = file.read_text()
            failure = next_line(process)
            assert failure.startswith("hwsigner: no new credentials: ")
            assert "AccessDenied" in failure
            assert file.read_text() == first
            assert "wrote [default]" in next_line(process)
            assert file.read_text() != first
            process.terminate()
            assert ended(process) == (0, "", "")
        assert ":assumed-role/" in caller(scene, "default")

    @pytest.mark.parametrize(("fault", "pause"), [(None, 10), ("deny", 1)])
    def test_pause_is_shorter_after_a_failure(
        self, scene: Scene, file: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None, pause: int
    ) -> None:
        def sleep(seconds: float) -> None:
            assert signal.getsignal(signal.SIGTERM) is not before
            pauses.append(seconds)
            raise KeyboardInterrupt

        pauses: list[float] = []
        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(time, "sleep", sleep)
        scene.emulator.misbehave(*([Fault.parse(fault)] if fault else []))
        outcome = scene.call("update", *scene.flags())
        assert (outcome.status, pauses) == (0, [pause])
        assert signal.getsignal(signal.SIGTERM) == before

    @pytest.mark.slow
    def test_update_retries_until_the_service_gives_credentials(self, scene: Scene, file: Path) -> None:
        scene.emulator.misbehave(Fault.parse("deny"))
        with running(scene) as process:
            assert "no new credentials: " in next_line(process)
            assert "wrote [default]" in next_line(process)
            process.terminate()
            assert ended(process) == (0, "", "")

    def test_sigterm_ends_update_while_it_waits_for_a_response(self, scene: Scene, file: Path) -> None:
        scene.emulator.misbehave(Fault.parse("stall"))
        with running(scene) as process:
            while not scene.emulator.requests:
                assert process.poll() is None
            process.terminate()
            assert ended(process) == (0, "", "")
        assert not file.exists()

    def test_update_ends_when_no_place_gives_the_pin(self, scene: Scene, file: Path) -> None:
        uri = f"file:{scene.key}?pin-source=env:NO_SUCH_VARIABLE"
        scene.key.write_bytes(encrypted(scene.key))
        with running(scene, f"--private-key={uri}") as process:
            status, _, err = ended(process)
        assert (status, err.count("\n")) == (3, 1)
        assert not file.exists()


def encrypted(key: Path) -> bytes:
    done = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", str(key), "-passout", "pass:1234"], capture_output=True, check=True
    )
    return done.stdout


NEW = Credentials("A", "B", "C", datetime.now(UTC) + timedelta(hours=1), "", "")


class FakeProvider:
    """Gives the credentials or error that a test sets."""

    def __init__(self) -> None:
        self.gives: Credentials | Exception = NEW
        self.failure: HwsignerError | None = None

    def __call__(self) -> Credentials:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


class TestUpdater:
    @pytest.fixture(autouse=True)
    def parts(self) -> None:
        self.provider = FakeProvider()
        self.written: list[Credentials] = []
        self.refusal: HwsignerError | None = None
        self.now = 0.0
        self.updater = Updater(self.provider, self.write, lambda: self.now)

    def write(self, credentials: Credentials) -> None:
        if self.refusal:
            raise self.refusal
        self.written.append(credentials)

    def test_only_new_credentials_are_written(self) -> None:
        other = Credentials(**{**vars(NEW), "access_key_id": "D"})
        for given in (NEW, NEW, other, other):
            self.provider.gives = given
            assert self.updater.update()
        assert self.written == [NEW, other]

    def test_each_failure_is_reported_once(self, capfd: pytest.CaptureFixture[str]) -> None:
        for number in (1, 1, 2, 2):
            if not self.provider.failure or str(number) not in str(self.provider.failure):
                self.provider.failure = ServiceError(f"failure {number}")
            assert not self.updater.update()
        self.provider.failure = None
        assert self.updater.update()
        assert capfd.readouterr().err == (
            "hwsigner: no new credentials: failure 1\nhwsigner: no new credentials: failure 2\n"
        )
        assert self.written == [NEW]

    def test_updater_continues_without_credentials(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.provider.gives = self.provider.failure = ServiceError("refused")
        assert not self.updater.update()
        assert (self.written, capfd.readouterr().err) == ([], "hwsigner: no new credentials: refused\n")

    def test_updater_continues_after_a_certificate_error_if_it_has_written_once(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.updater.update()
        self.provider.gives = self.provider.failure = CertificateError("expired")
        assert not self.updater.update()
        assert capfd.readouterr().err == "hwsigner: no new credentials: expired\n"

    @pytest.mark.parametrize("error", [PinRequiredError("no PIN"), UsageError("no such thing")])
    def test_updater_ends_when_the_last_credentials_expire_and_a_retry_cannot_help(self, error: HwsignerError) -> None:
        self.updater.update()
        self.provider.gives = self.provider.failure = error
        with pytest.raises(type(error)):
            self.updater.update()

    @pytest.mark.parametrize("error", [PinRequiredError("no PIN"), UsageError("no such"), CertificateError("expired")])
    def test_updater_ends_at_once_when_a_retry_cannot_help(
        self, error: HwsignerError, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.provider.gives = self.provider.failure = error
        with pytest.raises(type(error)):
            self.updater.update()
        assert capfd.readouterr().err == ""

    def test_missing_pin_is_reported_while_the_last_credentials_are_valid(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.provider.failure = PinRequiredError("no PIN")
        assert not self.updater.update()
        assert capfd.readouterr().err == "hwsigner: no new credentials: no PIN\n"

    def test_failed_write_is_retried_after_growing_pauses(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.refusal = HwsignerError("disk full")
        tries = []
        for second in range(300):
            self.now = float(second)
            assert not self.updater.update()
            if capfd.readouterr().err == "hwsigner: disk full\n":
                tries.append(second)
        assert tries == [0, 1, 3, 7, 15, 31, 63, 127, 247]
        self.refusal, self.now = None, 1000.0
        assert self.updater.update()
        assert self.written == [NEW]
        self.refusal, self.provider.gives = (
            HwsignerError("disk full"),
            Credentials(**{**vars(NEW), "access_key_id": "D"}),
        )
        assert [self.updater.update() for self.now in (1001.0, 1002.0)] == [False, False]
        assert capfd.readouterr().err == "hwsigner: disk full\n" * 2
