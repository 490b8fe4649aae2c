"""`hwsigner profile add` and `list`, and the warnings about secrets in a profile that is used."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from hwsigner._config import profiles
from hwsigner._system import users
from judges import needs_linux
from scene import Outcome, Scene

pytestmark = pytest.mark.usefixtures("user_file")
Call = Callable[..., Outcome]
ARNS = {
    "--trust-anchor-arn": "arn:aws:rolesanywhere:eu-west-1:123456789012:alias/trust-anchor/production-ca",
    "--profile-arn": "arn:aws:rolesanywhere:eu-west-1:123456789012:profile/3f6c1a52-9d7e-4c1b-8a90-0f4b7d2c6e11",
    "--role-arn": "arn:aws:iam::123456789012:role/web",
}


def refused(outcome: Outcome, *parts: str) -> None:
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    for part in parts:
        assert part in outcome.err


class TestAdd:
    def test_every_kind_of_flag_is_saved(self, call: Call, user_file: Path) -> None:
        flags = ("--certificate", "-c", "--debug", "--strict=false", "--session-duration=1800", "--timeout", "7.5")
        outcome = call("profile", "add", "web", *flags, "--instance-property=a=b", "--instance-property=c=d")
        assert (outcome.status, outcome.err.count("\n")) == (0, 1)
        assert "warning: --certificate is -c, which is not in this folder" in outcome.err
        assert outcome.out == f"{user_file}: [profile.web]\n"
        assert tomllib.loads(user_file.read_text())["profile"]["web"] == {
            "certificate": "-c",
            "debug": True,
            "strict": False,
            "session-duration": 1800,
            "timeout": 7.5,
            "instance-property": ["a=b", "c=d"],
        }

    def test_relative_path_of_a_file_becomes_absolute(
        self, call: Call, user_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("web.pem", "web.tss2"):
            Path(name).touch()
        flags = ("--certificate=web.pem", "--private-key=tpm2:path=web.tss2?tcti=none", "--intermediates=missing.pem")
        assert call("profile", "add", "web", *flags).status == 0
        assert call("profile", "edit", "web", "--intermediates=./web.pem").status == 0
        assert tomllib.loads(user_file.read_text())["profile"]["web"] == {
            "certificate": f"{tmp_path}/web.pem",
            "private-key": f"tpm2:path={tmp_path}/web.tss2?tcti=none",
            "intermediates": f"{tmp_path}/web.pem",
        }

    def test_arns_are_saved(self, call: Call, user_file: Path) -> None:
        assert call("profile", "add", "web", *(f"{flag}={arn}" for flag, arn in ARNS.items())).status == 0
        saved = tomllib.loads(user_file.read_text())["profile"]["web"]
        assert saved == {flag.removeprefix("--"): arn for flag, arn in ARNS.items()}

    @pytest.mark.parametrize(
        ("flag", "text"),
        [
            ("--trust-anchor-arn", "ARN"),
            ("--profile-arn", ARNS["--trust-anchor-arn"]),
            ("--role-arn", "arn:aws:iam::123456789012:user/web"),
        ],
    )
    def test_malformed_or_swapped_arn_is_an_error_and_nothing_is_written(
        self, call: Call, user_file: Path, flag: str, text: str
    ) -> None:
        refused(call("profile", "add", "web", "--debug", f"{flag}={text}"), f"{flag} is {text!r}, which is ")
        assert not user_file.parent.exists()

    def test_arns_that_do_not_belong_together_are_an_error_and_nothing_is_written(
        self, call: Call, user_file: Path
    ) -> None:
        elsewhere = {**ARNS, "--profile-arn": ARNS["--profile-arn"].replace("eu-west-1", "eu-west-2")}
        refused(call("profile", "add", "web", *(f"{flag}={arn}" for flag, arn in elsewhere.items())), "eu-west-2")
        assert not user_file.parent.exists()

    @pytest.mark.parametrize("flag", ARNS)
    def test_arns_of_two_accounts_are_an_error_and_nothing_is_written(
        self, call: Call, user_file: Path, flag: str
    ) -> None:
        for others in (ARNS, dict(list(ARNS.items())[:2]), dict(list(ARNS.items())[1:])):
            elsewhere = {**others, flag: ARNS[flag].replace("123456789012", "210987654321")}
            refused(
                call("profile", "add", "web", *(f"{name}={arn}" for name, arn in elsewhere.items())),
                "is of account",
                "210987654321",
            )
        assert not user_file.parent.exists()

    def test_edit_refuses_a_role_of_another_account_unless_the_other_arns_go(self, call: Call, user_file: Path) -> None:
        call("profile", "add", "web", *(f"{flag}={arn}" for flag, arn in ARNS.items()))
        before, role = user_file.read_bytes(), "--role-arn=arn:aws:iam::210987654321:role/web"
        refused(call("profile", "edit", "web", role), "--role-arn is of 210987654321")
        assert user_file.read_bytes() == before
        others = ("--unset=trust-anchor-arn", "--unset=profile-arn")
        assert call("profile", "edit", "web", role, *others).status == 0

    def test_flags_may_stand_before_the_name(self, call: Call, user_file: Path) -> None:
        assert call("profile", "--region", "x", "add", "--debug", "web").status == 0
        assert tomllib.loads(user_file.read_text()) == {"profile": {"web": {"debug": True, "region": "x"}}}

    def test_any_text_is_saved_unchanged(self, call: Call, user_file: Path) -> None:
        text = 'a "b" \\ #[x] = \x7f\t\n €'
        assert call("profile", "add", "web", f"--certificate={text}").status == 0
        assert tomllib.loads(user_file.read_text())["profile"]["web"]["certificate"] == text

    def test_existing_profile_is_replaced_only_with_the_flag(self, call: Call, user_file: Path) -> None:
        call("profile", "add", "web", "--region=x", "--debug")
        before = user_file.read_bytes()
        assert call("profile", "add", "web", "--region=x", "--debug").status == 0
        refused(call("profile", "add", "web", "--region=y"), "'web'", str(user_file), "--replace")
        assert user_file.read_bytes() == before
        assert call("profile", "add", "web", "--region=y", "--replace").status == 0
        assert tomllib.loads(user_file.read_text()) == {"profile": {"web": {"region": "y"}}}

    @pytest.mark.parametrize("name", ["", ".a", "a b", "a/b", "a\n", "a]", "ä", "a" * 65, '"a"'])
    def test_invalid_name_is_a_usage_error(self, name: str, call: Call, user_file: Path) -> None:
        refused(call("profile", "add", name, "--region=x"), "at most 64")
        assert not user_file.exists()

    @pytest.mark.parametrize("name", ["a", "0", "a.b", "a-b_c@d", "a" * 64])
    def test_name_is_accepted(self, name: str, call: Call, user_file: Path) -> None:
        assert call("profile", "add", name, "--region=x").status == 0
        assert tomllib.loads(user_file.read_text()) == {"profile": {name: {"region": "x"}}}

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            ((), "add|edit|show|remove|list"),
            (("add",), "no profile name was given"),
            (("add", "web"), "would be empty"),
            (("add", "web", "--replace"), "would be empty"),
            (("add", "web", "--profile=x"), "--profile"),
            (("add", "web", "--digest=SHA256"), "--digest"),
            (("add", "web", "--session-duration=1"), "--session-duration"),
            (("add", "web", "--certificate=a", "--cert-selector=b"), "exclude"),
            (("add", "web", "other", "--region=x"), "unexpected argument"),
            (("delete", "web"), "no action 'delete'. Did you mean remove?"),
            (("remov", "web"), "no action 'remov'. Did you mean remove?"),
        ],
    )
    def test_invalid_arguments_exit_with_status_2(
        self, arguments: tuple[str, ...], part: str, call: Call, user_file: Path
    ) -> None:
        refused(call("profile", *arguments), part)
        assert not user_file.exists()

    @pytest.mark.parametrize(
        "arguments",
        [("--pkcs8-password", "two", "hunter2", "add", "web"), ("add", "web", "--pkcs8-pasword", "hunter2")],
    )
    def test_errors_hide_the_password(self, arguments: tuple[str, ...], call: Call) -> None:
        outcome = call("profile", *arguments)
        refused(outcome)
        assert "hunter2" not in outcome.err


class TestEdit:
    def test_values_are_set_and_taken_out_and_the_rest_stays(self, call: Call, user_file: Path) -> None:
        call("profile", "add", "web", "--certificate=c", "--region=eu-west-1", "--timeout=7")
        user_file.write_text(f"# mine\n{user_file.read_text()}")
        outcome = call("profile", "edit", "web", "--timeout=9", "--private-key=/k", "--unset", "region")
        assert (outcome.status, outcome.out, outcome.err) == (0, f"{user_file}: [profile.web]\n", "")
        saved = {"certificate": "c", "timeout": 9.0, "private-key": "/k"}
        assert tomllib.loads(user_file.read_text())["profile"]["web"] == saved
        assert user_file.read_text().startswith("# mine\n")

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ([], "no change was given"),
            (["--unset=region"], "has no region"),
            (["--unset=certificate", "--certificate=d"], "set and unset"),
            (["--role-arn=arn:aws:iam::1:role/x"], "--role-arn is"),
        ],
    )
    def test_invalid_changes_are_refused(self, call: Call, user_file: Path, arguments: list[str], text: str) -> None:
        call("profile", "add", "web", "--certificate=c")
        before = user_file.read_bytes()
        refused(call("profile", "edit", "web", *arguments), text)
        assert user_file.read_bytes() == before

    def test_missing_profile_is_not_made(self, call: Call, user_file: Path) -> None:
        refused(call("profile", "edit", "web", "--certificate=c"), "no profile 'web'")
        assert not user_file.exists()


@pytest.mark.parametrize("line", ["add new --region x", "edit web --region x", "remove web"])
def test_change_that_can_t_be_printed_is_an_error_that_says_that_it_was_made(
    user_file: Path, call: Call, line: str
) -> None:
    call("profile", "add", "web", "--region", "eu-west-1")
    before = user_file.read_text()
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stdout:
        command = [sys.executable, "-m", "hwsigner", "profile", *line.split()]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)
    problem = f"{user_file} was changed, but stdout can't be written: Broken pipe. Check where the output goes"
    assert (done.returncode, done.stderr) == (1, f"hwsigner: {problem}\n")
    assert user_file.read_text() != before


class TestShow:
    def test_values_are_shown_without_secrets(self, call: Call, user_file: Path) -> None:
        call(
            "profile",
            "add",
            "web",
            "--certificate=c",
            "--tpm-key-password=hunter2",
            "--private-key=pkcs11:token=a?pin-value=hunter2",
        )
        outcome = call("profile", "show", "web")
        assert outcome.status == 0
        assert outcome.out.splitlines()[0] == f"# {user_file}"
        assert 'certificate = "c"' in outcome.out
        assert "pkcs11:token=a" in outcome.out
        assert "hunter2" not in outcome.out + outcome.err

    @pytest.mark.parametrize(
        "line",
        [
            'pkcs8-pasword = "hunter2"',
            'endpoint = "https://web:hunter2@host"',
            'issuer-url = "https://hunter2@host"',
            'private-key = "pkcs11:%zz?pin-value=hunter2"',
        ],
    )
    def test_secret_that_is_misplaced_is_not_shown(self, line: str, call: Call, user_file: Path) -> None:
        user_file.parent.mkdir(parents=True)
        user_file.write_text(f"[profile.web]\n{line}\n")
        outcome = call("profile", "show", "web")
        assert (outcome.status, outcome.err) == (0, "")
        assert line.partition(" ")[0] in outcome.out
        assert "hunter2" not in outcome.out

    def test_missing_profile_is_an_error(self, call: Call) -> None:
        refused(call("profile", "show", "web"), "no profile 'web'")


class TestRemove:
    def test_profile_goes_and_the_others_stay(self, call: Call, user_file: Path) -> None:
        call("profile", "add", "web", "--certificate=c")
        call("profile", "add", "other", "--certificate=d")
        outcome = call("profile", "remove", "web")
        assert (outcome.status, outcome.err) == (0, "")
        assert "Its key and certificate stay" in outcome.out
        assert list(tomllib.loads(user_file.read_text())["profile"]) == ["other"]

    def test_missing_profile_is_an_error(self, call: Call) -> None:
        refused(call("profile", "remove", "web"), "no profile 'web'")


class TestList:
    def test_list_is_empty_without_profiles(self, call: Call) -> None:
        outcome = call("profile", "list")
        assert (outcome.status, outcome.out) == (0, "")
        assert outcome.err.startswith("hwsigner: there are no profiles. Make one with hwsigner enroll")

    def test_list_shows_names_and_files(self, call: Call, user_file: Path) -> None:
        Path(profiles.SYSTEM_FILE).parent.mkdir()
        Path(profiles.SYSTEM_FILE).write_text('[profile.web]\n[profile.sys]\npkcs8-password = "hunter2"\n')
        call("profile", "add", "web", "--region=x")
        rest = "no timer\tthe profile names no certificate\n"
        sys, web = f"sys\t{profiles.SYSTEM_FILE}\t\t\t\t\t\t{rest}", f"web\t{user_file}\t\t\tx\t\t\t{rest}"
        assert call("profile", "list") == Outcome(0, sys + web, "")

    def test_list_looks_for_no_certificate_in_a_token(self, call: Call) -> None:
        call("profile", "add", "web", "--certificate=pkcs11:object=web?module-path=/dev/null")
        assert json.loads(call("profile", "list", "--json").out)["profiles"][0]["certificate"] is None
        assert "/dev/null" not in call("profile", "list").out
        assert "/dev/null" in call("status").out

    def test_control_characters_are_escaped(self, call: Call, user_file: Path) -> None:
        user_file.parent.mkdir(parents=True)
        user_file.write_text('[profile."a\\u001b[2J"]\n')
        assert call("profile", "list").out.startswith(f"a\\x1b[2J\t{user_file}\t")

    @pytest.mark.parametrize("extra", ["web", "--region=x"])
    def test_list_takes_no_other_arguments(self, extra: str, call: Call) -> None:
        refused(call("profile", "list", extra), "takes no other arguments")


@needs_linux
class TestSystem:
    """With --system, only the system's file is read and written."""

    @pytest.fixture
    def system_file(self, call: Call, user_file: Path) -> Path:
        """The system's file. Each file has a profile "web"."""
        call("profile", "add", "web", "--region=own")
        outcome = call("profile", "add", "web", "--system", "--region=one", "--allow-users=www-data")
        assert outcome == Outcome(0, f"{profiles.SYSTEM_FILE}: [profile.web]\n", "")
        return Path(profiles.SYSTEM_FILE)

    def test_profile_is_added_edited_and_removed_whatever_the_user_s_file_has(
        self, call: Call, user_file: Path, system_file: Path
    ) -> None:
        own = user_file.read_text()
        assert call("profile", "edit", "web", "--system", "--region=two", "--unset=allow-users").status == 0
        assert tomllib.loads(system_file.read_text()) == {"profile": {"web": {"region": "two"}}}
        assert call("profile", "show", "web", "--system").out == f'# {system_file}\nregion = "two"\n'
        assert call("profile", "list", "--system").out.split("\t")[:2] == ["web", str(system_file)]
        assert call("profile", "remove", "web", "--system").status == 0
        assert (system_file.read_text(), user_file.read_text()) == ("", own)

    def test_missing_profile_is_an_error_even_if_the_user_has_it(self, call: Call, system_file: Path) -> None:
        call("profile", "add", "db", "--region=own")
        for action in (("edit", "--region=x"), ("show",), ("remove",)):
            outcome = call("profile", action[0], "db", "--system", *action[1:])
            refused(outcome, f"there is no profile 'db' in {system_file}", "Profiles there: web", "add --system")

    def test_another_user_is_told_to_be_root_before_anything_changes(
        self, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        may = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and may(path, mode))
        for command in (
            ("profile", "add", "web", "--region=x"),
            ("aws", "setup", "--ca=/dev/null", "--role=web"),
            ("install-certificate", "web.pem", "web.key"),
            ("enroll", "web"),
        ):
            refused(call(*command, "--system"), "is root's to write", "Run the command as root")

    @pytest.mark.root
    def test_agent_can_read_all_that_a_profile_names_whatever_the_umask(
        self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(users, "agent_group", lambda: 12345)
        key = tmp_path / "web.tss2"
        key.touch(0o600)
        before = os.umask(0o077)
        try:
            assert call("profile", "add", "web", "--system", f"--private-key=tpm2:path={key}").status == 0
        finally:
            os.umask(before)
        assert stat.S_IMODE(Path(profiles.SYSTEM_FILE).parent.stat().st_mode) == 0o755
        for path in (key, Path(profiles.SYSTEM_FILE)):
            assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (12345, 0o640)

    @pytest.mark.root
    def test_password_that_root_and_the_agent_alone_can_read_causes_no_warning(
        self, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(users, "agent_group", lambda: 12345)
        added = call("profile", "add", "web", "--system", "--private-key=/k", "--pkcs8-password=hunter2")
        file = Path(profiles.SYSTEM_FILE)
        assert (added.status, str(file) in added.err) == (0, False)
        assert (file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (12345, 0o640)
        assert not profiles.profile("web", {}, system=True).exposed
        file.chmod(0o644)
        assert profiles.profile("web", {}, system=True).exposed
        os.chown(file, 0, 0)
        file.chmod(0o640)
        assert profiles.profile("web", {}, system=True).exposed


class TestSecretsOfAProfile:
    """A password in a profile causes a warning only if other users can read the file."""

    PASSWORD = "hunter2"

    @pytest.fixture
    def encrypted(self, scene: Scene) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        encryption = BestAvailableEncryption(self.PASSWORD.encode())
        return scene.write("encrypted.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))

    def sign(self, scene: Scene, user_file: Path, mode: int, *flags: str) -> Outcome:
        user_file.chmod(mode)
        outcome = scene.call("sign-string", "--profile=web", "--format=text", *flags)
        assert self.PASSWORD not in outcome.err
        return outcome

    def test_password_in_a_private_file_causes_no_warning(self, scene: Scene, encrypted: Path, user_file: Path) -> None:
        added = scene.call("profile", "add", "web", f"--private-key={encrypted}", "--pkcs8-password", self.PASSWORD)
        assert self.PASSWORD not in added.out + added.err
        outcome = self.sign(scene, user_file, 0o600, "--strict")
        assert (outcome.status, outcome.err) == (0, "")

    def test_password_in_a_readable_file_causes_a_warning(self, scene: Scene, encrypted: Path, user_file: Path) -> None:
        scene.call("profile", "add", "web", f"--private-key={encrypted}", "--pkcs8-password", self.PASSWORD)
        outcome = self.sign(scene, user_file, 0o644)
        assert outcome.status == 0
        assert f"warning: --pkcs8-password in {user_file} is visible to other users" in outcome.err
        outcome = self.sign(scene, user_file, 0o644, "--strict")
        assert (outcome.status, outcome.out) == (3, "")

    def test_pin_value_in_a_readable_file_causes_a_warning(
        self, scene: Scene, encrypted: Path, user_file: Path
    ) -> None:
        scene.call("profile", "add", "web", f"--private-key=file:{encrypted}?pin-value={self.PASSWORD}")
        assert self.sign(scene, user_file, 0o600, "--strict").status == 0
        assert (
            f"pin-value in --private-key in {user_file} is visible to other users"
            in self.sign(scene, user_file, 0o644).err
        )

    def test_readable_file_without_secrets_causes_no_warning(self, scene: Scene, user_file: Path) -> None:
        scene.call("profile", "add", "web", f"--private-key={scene.key}")
        outcome = self.sign(scene, user_file, 0o644, "--strict")
        assert (outcome.status, outcome.err) == (0, "")

    def test_password_on_the_command_line_causes_a_warning(
        self, scene: Scene, encrypted: Path, user_file: Path
    ) -> None:
        scene.call("profile", "add", "web", f"--private-key={encrypted}")
        outcome = self.sign(scene, user_file, 0o600, "--pkcs8-password", self.PASSWORD)
        assert outcome.status == 0
        assert "warning: --pkcs8-password on the command line is visible to other users" in outcome.err
