"""`hwsigner migrate`: calls of other helpers and access keys become profiles, and nothing else changes."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import scaled
from hwsigner._cli.migration import find_calls, translate
from hwsigner._config import profiles
from hwsigner.errors import ConfigError, UsageError
from judges import needs_client_in_c
from scene import PROGRAM, Outcome, Scene
from terminals import Terminal

Call = Callable[..., Outcome]
ANCHOR = "arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/3f6c1a52-9d7e-4c1b-8a90-0f4b7d2c6e11"
PROFILE = "arn:aws:rolesanywhere:eu-west-1:123456789012:profile/3f6c1a52-9d7e-4c1b-8a90-0f4b7d2c6e11"
ROLE = "arn:aws:iam::123456789012:role/web"
ARNS = f"--trust-anchor-arn {ANCHOR} --profile-arn {PROFILE} --role-arn {ROLE}"
FLAGS = f"--certificate /etc/pki/web.pem --private-key /etc/pki/web.key {ARNS}"
VALUES = {
    "certificate": "/etc/pki/web.pem",
    "private-key": "/etc/pki/web.key",
    "trust-anchor-arn": ANCHOR,
    "profile-arn": PROFILE,
    "role-arn": ROLE,
}
HELPER = "/usr/local/bin/aws_signing_helper"
KEY_ID = "AKIAIOSFODNN7EXAMPLE"


class Home:
    """A home folder with files of the SDKs."""

    def __init__(self, folder: Path, call: Call) -> None:
        self.folder = folder
        self.call = call
        self.config = folder / ".aws" / "config"
        self.keys = folder / ".aws" / "credentials"
        self.toml = folder / "xdg" / "hwsigner" / "config.toml"
        self.config.parent.mkdir()

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def profiles(self) -> dict[str, Any]:
        return tomllib.loads(self.toml.read_text())["profile"] if self.toml.exists() else {}

    def migrated(self, *files: str | Path) -> Outcome:
        """Migrate without a question, and return what was printed. All could be translated."""
        outcome = self.call("migrate", "--yes", *files)
        assert (outcome.status, outcome.err) == (0, "")
        return outcome

    def refused(self, *parts: str, files: tuple[Path, ...] = ()) -> Outcome:
        """Migrate what can't be translated: each problem is a line of stderr."""
        outcome = self.call("migrate", "--yes", *files)
        assert outcome.status == 1
        lines = outcome.err.splitlines()
        assert len(lines) == len(parts), outcome.err
        for line, part in zip(lines, parts, strict=True):
            assert part in line
        return outcome


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Home:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc" / "config.toml"))
    program = Path(sys.executable).with_name("hwsigner")
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path, call)


def process_of(home: Home, section: str = "profile web") -> str:
    parser = configparser.RawConfigParser()
    parser.read_string(home.config.read_text())
    return parser.get(section, "credential_process")


class TestConfigFile:
    def test_call_becomes_a_profile_and_the_fast_client(self, home: Home) -> None:
        home.config.write_text(
            f"[profile web]\nregion = eu-west-1\ncredential_process = {HELPER} credential-process {FLAGS}\n"
        )
        outcome = home.migrated()
        assert home.profiles() == {"web": VALUES}
        client = Path(sys.executable).with_name(PROGRAM)
        assert home.config.read_text() == (
            f"[profile web]\nregion = eu-west-1\ncredential_process = {client} --profile web\n"
        )
        assert f"{home.config}:3: [profile web]" in outcome.out
        assert 'role-arn = "arn:aws:iam::123456789012:role/web"' in outcome.out

    def test_second_run_changes_nothing(self, home: Home) -> None:
        home.config.write_text(f"[default]\ncredential_process = aws_signing_helper credential-process {FLAGS}\n")
        home.migrated()
        before = home.config.stat().st_ino, home.toml.stat().st_ino
        assert "Nothing to migrate" in home.migrated().out
        assert (home.config.stat().st_ino, home.toml.stat().st_ino) == before
        assert home.profiles().keys() == {"default"}

    def test_run_after_a_kill_between_the_files_finishes_the_work(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home.config.write_text(f"[profile web]\ncredential_process = {HELPER} credential-process {FLAGS}\n")

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("hwsigner._cli.migrate.edit_file", killed)
            assert home.call("migrate", "--yes").status == 130
        assert "aws_signing_helper" in process_of(home)
        home.migrated()
        assert (home.profiles(), process_of(home).split()[-1]) == ({"web": VALUES}, "web")

    def test_all_other_bytes_stay(self, home: Home) -> None:
        text = (
            "# my own\r\n[profile web]\r\n  # indented\r\ncredential_process: "
            f'"{HELPER}" credential-process {FLAGS}\r\n[plugins]\r\nx=1\r\n\r\n[profile a]\r\nregion=x # \xe9'
        )
        home.config.write_bytes(text.encode("latin-1"))
        home.config.chmod(0o640)
        home.migrated()
        start, end = text.index('"/usr'), text.index("\r\n[plugins")
        after = home.config.read_bytes().decode("latin-1")
        assert (after[:start], after[after.index("\r\n[plugins") :]) == (text[:start], text[end:])
        assert home.config.stat().st_mode & 0o777 == 0o640

    def test_other_programs_are_left_alone(self, home: Home) -> None:
        text = "[profile a]\ncredential_process = /usr/bin/other aws_signing_helper.log\n[profile b]\nsso_session = x\n"
        home.config.write_text(text)
        home.migrated()
        assert (home.config.read_text(), home.profiles()) == (text, {})

    def test_same_flags_share_a_profile_and_others_get_another_name(self, home: Home) -> None:
        home.write("xdg/hwsigner/config.toml", '[profile.web]\ncertificate = "/other.pem"\n').chmod(0o600)
        home.config.write_text(
            f"[profile web]\ncredential_process = {HELPER} credential-process {FLAGS}\n"
            f"[profile 'also web']\ncredential_process = {HELPER} credential-process {FLAGS}\n"
            f"[profile long]\ncredential_process = {HELPER} credential-process {FLAGS} --session-duration 43200\n"
        )
        home.migrated()
        assert home.profiles() == {
            "web": {"certificate": "/other.pem"},
            "web-2": VALUES,
            "long": {**VALUES, "session-duration": 43200},
        }
        assert process_of(home).endswith("--profile web-2")
        assert process_of(home, "profile 'also web'").endswith("--profile web-2")

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (f"sudo -u web {HELPER} credential-process {FLAGS}", "another program runs it"),
            (f"{HELPER} credential-process {FLAGS} 2>/dev/null", "shell's syntax"),
            (f"{HELPER} credential-process --certificate $HOME/web.pem {ARNS}", "its flags have a $"),
            (f"{HELPER} credential-process --certificate '/etc/pki/web.pem {ARNS}", "a quote is not closed"),
            (f"{HELPER} serve {FLAGS}", "prints no credentials"),
            (f"{HELPER} version", "it runs version"),
            (HELPER, "it runs no command"),
            (f"{HELPER} credential-process --certificate /etc/pki/web.pem", "it has no --trust-anchor-arn"),
            (f"{HELPER} credential-process {FLAGS} --no-such-flag", "unknown flag --no-such-flag"),
            (f"{HELPER} credential-process {FLAGS} --session-duration 1", "--session-duration is '1'"),
            (f"{HELPER} credential-process {FLAGS} --help", "only shows its help"),
            (f"{HELPER} credential-process --certificate - {ARNS}", "which a profile can't name"),
            (
                f"{HELPER} credential-process --certificate '-----BEGIN CERTIFICATE-----' {ARNS}",
                "is given where its place",
            ),
            (f"{HELPER} credential-process {FLAGS} --role-arn web", "--role-arn is 'web'"),
            (f"{HELPER} credential-process {FLAGS} --intermediates ca.pem", "--intermediates is ca.pem, in a folder"),
            (f"needroleshere credential-process {FLAGS} --intermediates a --intermediates b", "several files"),
        ],
    )
    def test_what_can_t_be_translated_is_said_with_its_line_and_left(self, home: Home, line: str, problem: str) -> None:
        text = f"[default]\nregion = x\n\n[profile web]\ncredential_process = {line}\n"
        home.config.write_text(text)
        outcome = home.refused(problem)
        assert f"{home.config}:5: " in outcome.err
        assert (home.config.read_text(), home.profiles(), outcome.out) == (text, {}, "")

    def test_one_bad_section_does_not_keep_the_others(self, home: Home) -> None:
        line = f"credential_process = {HELPER} credential-process {FLAGS}\n"
        home.config.write_text(
            f"[profile web]\n{line}[profile role]\nrole_arn = x\n{line}[web]\n{line}[profile x]\n{line}"
        )
        home.refused("another source of credentials", "do not read [web] as a profile")
        assert home.profiles() == {"web": VALUES}
        assert process_of(home, "profile x").endswith("--profile web")
        assert HELPER in process_of(home, "profile role")

    def test_unreadable_config_file_is_said_and_other_files_are_done(self, home: Home) -> None:
        home.config.write_text("[profile web]\na=1\na=2\n")
        cron = home.write("cron", f"0 * * * * {HELPER} update {FLAGS} --once\n")
        outcome = home.refused("has a second a in [profile web]", files=(home.config, cron))
        assert f"{cron}:1: write this yourself" in outcome.out

    def test_file_of_nodeadm_is_left_to_it(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hwsigner._cli.migration.NODE_CONFIG", str(home.config))
        home.config.write_text(f"[profile hybrid]\ncredential_process = {HELPER} credential-process {FLAGS}\n")
        home.refused("nodeadm writes this file")
        assert home.profiles() == {}

    def test_tilde_that_only_a_shell_expands_becomes_the_home_folder(self, home: Home) -> None:
        home.config.write_text(
            f"[profile web]\ncredential_process = {HELPER} credential-process --certificate ~/web.pem {ARNS}\n"
        )
        home.migrated()
        assert home.profiles()["web"]["certificate"] == f"{home.folder}/web.pem"

    def test_selector_keeps_its_spaces(self, home: Home) -> None:
        selector = "Key=x509Subject,Value=CN=web 1 Key=x509Issuer,Value=CN=Example CA"
        home.config.write_text(
            f'[profile web]\ncredential_process = {HELPER} credential-process --cert-selector "{selector}" {ARNS}\n'
        )
        home.migrated()
        assert home.profiles()["web"]["cert-selector"] == selector

    def test_password_is_moved_and_not_shown(self, home: Home) -> None:
        home.config.write_text(
            f"[profile web]\ncredential_process = {HELPER} credential-process {FLAGS} --pkcs8-password hunter2\n"
        )
        outcome = home.migrated()
        assert home.profiles()["web"]["pkcs8-password"] == "hunter2"
        assert "hunter2" not in outcome.out
        assert home.toml.stat().st_mode & 0o077 == 0

    def test_needroleshere_is_translated_too(self, home: Home) -> None:
        home.config.write_text(f"[profile web]\ncredential_process = needroleshere credential-process {FLAGS}\n")
        home.migrated()
        assert home.profiles() == {"web": VALUES}

    @pytest.mark.slow
    def test_without_a_terminal_nothing_is_written(self, home: Home) -> None:
        text = f"[profile web]\ncredential_process = {HELPER} credential-process {FLAGS}\n"
        home.config.write_text(text)
        program = Path(sys.executable).with_name("hwsigner")
        done = subprocess.run([program, "migrate"], capture_output=True, text=True, start_new_session=True, timeout=60)
        assert (done.returncode, home.config.read_text(), home.profiles()) == (2, text, {})
        assert "[profile.web]" in done.stdout
        assert "so nothing was written. Add --yes" in done.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize(("answer", "is_done"), [(b"yes\n", True), (b"y\n", False)])
    def test_user_is_asked_after_all_is_shown(self, home: Home, answer: bytes, is_done: bool) -> None:
        line = f"credential_process = {HELPER} credential-process {FLAGS}"
        home.config.write_text(f"[profile web]\n{line}\n[profile bad]\n{line} >x\n")
        terminal = Terminal(home.folder)
        environ = {"HOME": str(home.folder), "XDG_CONFIG_HOME": str(home.folder / "xdg")}
        process = terminal.start(str(Path(sys.executable).with_name("hwsigner")), "migrate", **environ)
        terminal.shown_until("Type yes to write this: ")
        assert home.profiles() == {}
        terminal.type(answer)
        out, err = process.communicate(timeout=60)
        assert "[profile.web]" in out.decode()
        assert ":4: it has a shell's syntax" in err.decode()
        assert ("nothing was written" in err.decode(), "web" in home.profiles()) == (not is_done, is_done)
        assert (HELPER in process_of(home)) is not is_done

    @pytest.mark.slow
    def test_runs_at_the_same_time_write_one_profile_each(self, home: Home) -> None:
        for number in range(6):
            line = f"{HELPER} credential-process {FLAGS} --session-duration {900 + number}"
            text = home.config.read_text() if number else ""
            home.config.write_text(f"{text}[profile p{number}]\ncredential_process = {line}\n")
        program = str(Path(sys.executable).with_name("hwsigner"))
        running = [subprocess.Popen([program, "migrate", "--yes"], stderr=subprocess.DEVNULL) for _ in range(4)]
        assert 0 in [process.wait(60) for process in running]
        home.migrated()
        assert {name: values["session-duration"] for name, values in home.profiles().items()} == {
            f"p{number}": 900 + number for number in range(6)
        }
        assert all(process_of(home, f"profile p{number}").endswith(f"--profile p{number}") for number in range(6))

    def test_script_that_runs_the_program_is_named(self, home: Home) -> None:
        script = home.write("creds.sh", f"#!/bin/sh\nexec {HELPER} credential-process {FLAGS}\n")
        text = f"[profile web]\ncredential_process = {script} x\n"
        home.config.write_text(text)
        home.refused(f"{home.config}:2: its program is not known")
        assert home.config.read_text() == text
        home.migrated(script)

    def test_program_of_another_name_with_the_same_flags_is_named(self, home: Home) -> None:
        home.config.write_text(f"[profile web]\ncredential_process = /opt/signer credential-process {FLAGS}\n")
        script = home.write("x.sh", f"$SIGNER serve \\\n  {FLAGS}\n/opt/hwsigner/bin/hwsigner serve {FLAGS}\n")
        home.refused(f"{home.config}:2: its program", f"{script}:1: its program", files=(home.config, script))

    @pytest.mark.root
    def test_file_of_another_user_is_left_and_no_profile_is_written(self, home: Home) -> None:
        home.config.write_text(f"[profile web]\ncredential_process = {HELPER} credential-process {FLAGS}\n")
        os.chown(home.config, 65534, -1)
        home.refused("another user owns this file. Run this as that user")
        assert home.profiles() == {}

    def test_line_in_the_credentials_file_is_to_be_moved(self, home: Home) -> None:
        text = f"[default]\ncredential_process = {HELPER} credential-process {FLAGS}\n"
        home.keys.write_text(text)
        home.refused(f"not all SDKs read it in this file. Move the line to {home.config}")
        assert home.keys.read_text() == text

    def test_bytes_that_are_no_text_are_not_lost(self, home: Home) -> None:
        data = f"[profile web]\ncredential_process = {HELPER} credential-process {FLAGS} --region \xe9\n".encode(
            "latin-1"
        )
        home.config.write_bytes(data)
        home.refused("its flags are not text in UTF-8")
        assert home.config.read_bytes() == data

    def test_byte_order_mark_and_capitals_are_no_obstacle(self, home: Home) -> None:
        text = f"[profile web]\nCredential_Process = {HELPER} credential-process {FLAGS}\n"
        home.config.write_bytes(b"\xef\xbb\xbf" + text.encode())
        home.migrated()
        assert home.config.read_bytes().startswith(b"\xef\xbb\xbf[profile web]\nCredential_Process = /")
        assert home.profiles() == {"web": VALUES}

    def test_link_stays_a_link(self, home: Home) -> None:
        real = home.write(
            "dotfiles/config", f"[profile web]\ncredential_process = {HELPER} credential-process {FLAGS}\n"
        )
        home.config.symlink_to(real)
        home.migrated()
        assert home.config.is_symlink()
        assert HELPER not in real.read_text()

    def test_password_in_a_file_that_others_read_is_warned_of(self, home: Home) -> None:
        home.write("xdg/hwsigner/config.toml", "").chmod(0o644)
        home.config.write_text(
            f"[profile web]\ncredential_process = {HELPER} credential-process {FLAGS} --pkcs8-password hunter2\n"
        )
        outcome = home.call("migrate", "--yes")
        assert outcome.status == 0
        assert f"contains a password and others can read it. Run chmod 600 {home.toml}" in outcome.err

    def test_missing_files_are_an_error(self, home: Home) -> None:
        assert home.call("migrate").status == 2
        outcome = home.call("migrate", home.folder / "none")
        assert (outcome.status, outcome.out) == (2, "")
        assert "none: No such file or directory" in outcome.err

    def test_profiles_that_were_written_are_said_if_the_sdks_file_can_t_be(self, home: Home) -> None:
        home.config.write_text(f"[default]\ncredential_process = {HELPER} credential-process {FLAGS}\n")
        lock = home.config.parent / ".config.hwsigner-lock"
        lock.mkdir()
        outcome = home.call("migrate", "--yes")
        assert outcome.status == 1
        assert outcome.err.startswith(f"hwsigner: {home.toml} has the profiles, but can't write {home.config}: ")
        assert "Written" not in outcome.out
        lock.rmdir()
        home.migrated()
        assert home.profiles() == {"default": VALUES}

    def test_file_without_end_is_refused(self, home: Home) -> None:
        outcome = home.call("migrate", "/dev/zero")
        assert outcome.status == 2
        assert "/dev/zero is longer than 16 MiB" in outcome.err

    def test_long_line_without_blanks_takes_no_longer_than_others(self) -> None:
        begin = time.process_time()
        assert not [*find_calls("/f", b"A=" + b"a" * 20_000 + b"\n")]
        assert time.process_time() - begin < 1.0

    def test_quoted_program_is_found(self, home: Home) -> None:
        home.config.write_text(f"[profile web]\ncredential_process = '{HELPER}' credential-process {FLAGS}\n")
        home.migrated()
        assert home.profiles() == {"web": VALUES}

    @given(st.text(st.sampled_from("ab'\"\\ $|;>&-\n#[]=%~"), max_size=30))
    @settings(max_examples=scaled(300))
    def test_any_text_after_the_program_is_translated_or_said(self, text: str) -> None:
        for data in (f"[default]\ncredential_process = {HELPER} {text}", f"* * * * * {HELPER} {text}\n"):
            # Without a role's ARN, none can be translated: each call is refused with a reason, not with a traceback.
            try:
                calls = list(find_calls("/f", data.encode()))
            except ConfigError:
                continue
            for call in calls:
                with pytest.raises(UsageError):
                    translate(call)


class TestLines:
    def test_unit_gets_a_line_with_a_profile(self, home: Home) -> None:
        unit = home.write(
            "aws.service",
            f"[Unit]\n# {HELPER} serve\n[Service]\nExecStart=-{HELPER} serve {FLAGS} \\\n  --port 9912 --hop-limit=2\n",
        )
        text = unit.read_text()
        outcome = home.migrated(unit)
        program = Path(sys.executable).with_name("hwsigner")
        assert f"{unit}:4: write this yourself, in place of aws_signing_helper and its flags:" in outcome.out
        assert f"  {program} serve --profile web --port 9912 --hop-limit 2\n" in outcome.out
        assert (unit.read_text(), home.profiles()) == (text, {"web": VALUES})
        again = home.migrated(unit)
        assert ("[profile.web]" in again.out, "serve --profile web" in again.out) == (False, True)

    def test_cron_s_update_keeps_its_section(self, home: Home) -> None:
        cron = home.write(
            "cron", f"MAILTO=x\n*/50 * * * * {HELPER} update {FLAGS} --profile app --once >/dev/null 2>&1\n"
        )
        outcome = home.migrated(cron)
        assert re.search(r"hwsigner update --config-profile web --profile app --once\n", outcome.out)
        assert home.profiles() == {"web": VALUES}

    def test_settings_added_since_do_not_make_another_profile(self, home: Home) -> None:
        cron = home.write("cron", f"0 * * * * {HELPER} update {FLAGS} --once\n")
        home.migrated(cron)
        home.call("profile", "edit", "web", "--agent=auto")
        home.migrated(cron)
        assert home.profiles().keys() == {"web"}

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (f"[Service]\nUser=www-data\nExecStart={HELPER} serve {FLAGS}\n", "it runs as user www-data"),
            (f"[Service]\nDynamicUser=yes\nExecStart={HELPER} serve {FLAGS}\n", "a user that systemd makes"),
            (f"[Service]\nExecStart={HELPER} serve --certificate ${{CREDENTIALS_DIRECTORY}}/c {ARNS}\n", "have a $"),
            (f"[Service]\nExecStart={HELPER} serve --certificate %d/c {ARNS}\n", "have a %"),
            (f"[Service]\nExecStart=/bin/sh -c '{HELPER} serve {FLAGS}'\n", "inside quotes"),
            (f"0 * * * * sudo -u x {HELPER} update {FLAGS}\n", "for another user or machine"),
            (f"{HELPER} sign-string --private-key x\n", "it runs sign-string"),
            (f"{HELPER} serve {FLAGS} --pkcs8-password two words\n", "an argument that is not a flag's"),
            (f"[Service]\nExecStart=/usr/bin/needroleshere serve --region {ROLE}\n", "run hwsigner serve NAME"),
        ],
    )
    def test_what_can_t_get_a_profile_is_said(self, home: Home, text: str, problem: str) -> None:
        path = home.write("file", text)
        home.refused(problem, files=(path,))
        assert (path.read_text(), home.profiles()) == (text, {})

    def test_relative_path_is_not_one_of_the_folder_that_migrate_runs_in(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(home.write("web.pem", "another certificate").parent)
        flags = f"--certificate web.pem --private-key /etc/pki/web.key {ARNS}"
        unit = home.write("x.service", f"[Service]\nWorkingDirectory=/srv\nExecStart={HELPER} serve {flags}\n")
        home.refused("--certificate is web.pem, in a folder that the line does not name", files=(unit,))
        assert home.profiles() == {}

    def test_key_uri_needs_no_quotes_where_no_shell_runs(self, home: Home) -> None:
        uri = "pkcs11:token=x;object=y?module-path=/m.so&pin-source=file:/pin"
        flags = f"--certificate /c --private-key {uri} {ARNS}"
        home.config.write_text(f"[profile web]\ncredential_process = {HELPER} credential-process {flags}\n")
        home.migrated(home.config, home.write("x.service", f"[Service]\nExecStart={HELPER} serve {flags}\n"))
        assert {name: values["private-key"] for name, values in home.profiles().items()} == {"web": uri}
        script = home.write("x.sh", f"{HELPER} serve {flags}\n")
        home.refused("it has no --trust-anchor-arn", files=(script,))

    def test_comments_and_files_without_calls_are_nothing(self, home: Home) -> None:
        path = home.write("file", f"# {HELPER} serve\n;{HELPER}\nls /opt/aws_signing_helper/x my_aws_signing_helper2\n")
        assert "Nothing to migrate" in home.migrated(path).out


class TestAccessKeys:
    def test_keys_are_named_without_their_secret_and_stay(self, home: Home) -> None:
        text = f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG\n"
        home.keys.write_text(text)
        unit = home.write("x.service", f"[Service]\nEnvironment=AWS_ACCESS_KEY_ID={KEY_ID[:-1]}F\n")
        outcome = home.migrated(home.keys, unit)
        assert f"{home.keys}:2: access key {KEY_ID}\n{unit}:2: access key {KEY_ID[:-1]}F\n" in outcome.out
        assert "hwsigner help migrate" in outcome.out
        assert "wJalr" not in outcome.out
        assert home.keys.read_text() == text

    def test_credentials_file_is_read_by_default(self, home: Home) -> None:
        home.keys.write_text(f"[a]\naws_access_key_id={KEY_ID}\n[b]\naws_access_key_id=ASIAIOSFODNN7EXAMPLE\n")
        outcome = home.migrated()
        assert outcome.out.count("access key A") == 1


@needs_client_in_c
def test_migrated_profile_gives_credentials(home: Home, scene: Scene) -> None:
    flags = " ".join(scene.flags())
    home.config.write_text(f"[profile web]\ncredential_process = {HELPER} credential-process {flags}\n")
    home.migrated()
    environ = {**os.environ, "HWSIGNER_AGENT": "none"}
    done = subprocess.run(process_of(home).split(), env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"SecretAccessKey"' in done.stdout
