"""What a newcomer reads: `hwsigner` alone, the list of commands, and the flags in groups with an example."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hwsigner._cli import COMMANDS
from hwsigner._cli.flag_groups import EXAMPLES, flag_groups
from hwsigner._cli.help import sections
from hwsigner._cli.parser import Parser
from hwsigner._config.flags import IDENTITY, PROFILE, SESSION
from hwsigner.errors import UsageError
from judges import needs_systemd
from scene import Outcome

Call = Callable[..., Outcome]
FIVE = ["certificate", "private-key", "trust-anchor-arn", "profile-arn", "role-arn"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the user's config.toml, in a folder that is there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("hwsigner._config.profiles.SYSTEM_FILE", str(tmp_path / "system.toml"))
    path = tmp_path / "hwsigner" / "config.toml"
    path.parent.mkdir(mode=0o700)
    return path


def parser_of(name: str) -> Parser:
    command = importlib.import_module(COMMANDS[name])
    parser = Parser(name, command.HELP)
    command.add_arguments(parser)
    return parser


class TestAlone:
    def test_without_a_profile_it_says_how_to_make_one(self, config: Path, call: Call) -> None:
        outcome = call()
        assert (outcome.status, outcome.err) == (0, "")
        assert outcome.out.startswith("Temporary AWS credentials from a private key")
        assert "There is no profile yet." in outcome.out
        assert "hwsigner enroll" in outcome.out
        assert "hwsigner profile add" in outcome.out

    @pytest.mark.parametrize(("preferred", "named"), [("", "db"), ("web", "web"), ("gone", "db")])
    def test_with_profiles_it_names_them_and_one_to_use(
        self, preferred: str, named: str, config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HWSIGNER_PROFILE", preferred)
        config.write_text("[profile.web]\n[profile.db]\n")
        outcome = call()
        assert (outcome.status, outcome.err) == (0, "")
        assert "Profiles: db, web." in outcome.out
        assert [f"hwsigner {word}" in outcome.out for word in ("status", "doctor", f"exec {named} ")] == [True] * 3

    def test_control_characters_in_a_profile_s_name_are_escaped(self, config: Path, call: Call) -> None:
        config.write_text('[profile."\\u001b[2J"]\n')
        out = call().out
        assert "\x1b" not in out
        assert "\\x1b[2J" in out

    def test_with_a_broken_config_file_it_says_so(self, config: Path, call: Call) -> None:
        config.write_text("pin = 1234")
        outcome = call()
        assert (outcome.status, outcome.err) == (0, "")
        assert "has pin outside of [profile.NAME]" in " ".join(outcome.out.split())

    @pytest.mark.parametrize("text", ["", "[profile.web]", "x"])
    def test_its_next_steps_can_be_run_and_fit_80_columns(self, text: str, config: Path, call: Call) -> None:
        config.write_text(text)
        out = call().out
        steps = re.findall(r"^  hwsigner (.+?)  ", out, re.MULTILINE)
        assert steps
        for step in steps:
            words = step.split()
            command = words[1] if words[0] == "help" else words[0]
            assert call("help", command).status == 0
        assert max(map(len, out.replace(str(config), "").splitlines())) <= 80


class TestGroups:
    def test_every_command_is_in_one_section(self) -> None:
        listed = [name for names in sections(COMMANDS).values() for name in names]
        assert sorted(listed) == sorted(COMMANDS)
        assert len(sections(COMMANDS)["Other commands"]) < 10

    def test_list_of_commands_has_the_line_of_each_and_imports_none_of_them(self) -> None:
        code = "import sys; from hwsigner._cli import main; main(['--help']); print(*sys.modules)"
        lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for name, module in COMMANDS.items():
            assert f"  {name:<22} {importlib.import_module(module).HELP}\n" in lines
        assert set(lines.splitlines()[-1].split()) & set(COMMANDS.values()) == set()

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_flag_is_in_one_group(self, name: str) -> None:
        flags = parser_of(name).flags
        groups = flag_groups(flags)
        assert sorted(flag.name for group in groups.values() for flag in group) == sorted(flag.name for flag in flags)

    @pytest.mark.parametrize("name", ["credential-process", "serve", "update", "sign-string", "profile", "aws check"])
    def test_the_five_flags_of_a_session_come_first(self, name: str, call: Call) -> None:
        shown = re.findall(r"^  --([a-z0-9-]+)", call(*name.split(), "--help").out, re.MULTILINE)
        assert shown[:5] == FIVE
        assert len(shown) == len(set(shown))

    def test_flags_of_the_command_come_before_those_for_keys(self, call: Call) -> None:
        shown = re.findall(r"^  --([a-z0-9-]+)", call("aws", "setup", "--help").out, re.MULTILINE)
        assert shown[:3] == ["ca", "role", "match"]


class TestExamples:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_an_example_that_its_parser_accepts(self, name: str) -> None:
        lines = EXAMPLES[name].replace("\\\n", "").splitlines()
        assert lines
        for line in lines:
            program, *words = shlex.split(line)
            assert (program, words[: len(name.split())]) == ("hwsigner", name.split())
            parser_of(name).parse(words[len(name.split()) :])

    def test_an_example_that_the_parser_refuses_would_be_found(self) -> None:
        with pytest.raises(UsageError):
            parser_of("status").parse(["web"])


class TestDefaultProfile:
    """HWSIGNER_PROFILE."""

    @pytest.fixture(autouse=True)
    def variable(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config.write_text('[profile.web]\nregion = "web"\n[profile.db]\nregion = "db"\n')
        monkeypatch.setenv("HWSIGNER_PROFILE", "web")

    @staticmethod
    def region(*arguments: str) -> str | None:
        parser = Parser("test", "for tests")
        parser.add_argument("key", nargs="?")
        parser.add_flags(IDENTITY, SESSION, PROFILE)
        return parser.complete(parser.parse(arguments)).settings.region

    def test_it_is_the_default_of_the_flag(self) -> None:
        assert self.region() == "web"
        assert self.region("--session-duration=900") == "web"

    @pytest.mark.parametrize("flag", ["--profile=db", "--config-profile=db"])
    def test_the_flag_takes_precedence(self, flag: str) -> None:
        assert self.region(flag) == "db"

    @pytest.mark.parametrize(
        "argument", ["--certificate=c", "--private-key=k", "--cert-selector=s", "handle:0x81000000"]
    )
    def test_it_does_not_count_if_the_command_line_names_a_key_or_certificate(self, argument: str) -> None:
        assert self.region(argument) is None

    def test_an_empty_one_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HWSIGNER_PROFILE", "")
        assert self.region() is None

    @pytest.mark.parametrize(
        "command",
        [
            "credential-process",
            "show",
            "whoami",
            "doctor",
            "sign-string",
            "serve",
            "exec -- true",
            "aws check",
            "aws revoke --renew",
        ],
    )
    def test_an_unknown_one_is_an_error_that_names_the_variable(
        self, command: str, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HWSIGNER_PROFILE", "wbe")
        outcome = call(*command.split())
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.startswith("hwsigner: there is no profile 'wbe' (of HWSIGNER_PROFILE) in ")
        assert outcome.err.endswith("Did you mean web?\n")


class TestDidYouMean:
    @pytest.mark.parametrize(
        ("arguments", "meant"),
        [
            ("stauts", "status"),
            ("aws chekc", "aws check"),
            ("profile lst", "list"),
            ("agent statsu", "status"),
            ("systemd instal", "install"),
            ("aws template cloudfromation", "cloudformation"),
            ("status --jsno", "--json"),
            ("keygen k --algorithm p348", "p384"),
            ("keygen k --touch-policy chached", "cached"),
            ("whoami --profile wbe", "web"),
            ("show --profile wbe", "web"),
            ("renew wbe", "web"),
            ("show --profile typo", "certificate"),
            ("show pkcs11:tokn=a", "token"),
            ("show tpm2:handel=0x81000000", "handle"),
            ("profile edit web --unset certificat", "certificate"),
        ],
    )
    @needs_systemd
    def test_misspelt_word_gets_a_suggestion(self, arguments: str, meant: str, config: Path, call: Call) -> None:
        config.write_text('[profile.web]\ncertificate = "c"\n[profile.typo]\ncertifcate = "c"\n')
        outcome = call(*arguments.split())
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.endswith(f"Did you mean {meant}?\n")

    def test_the_value_of_a_secret_flag_is_not_quoted(self, call: Call) -> None:
        outcome = call("credential-process", "--pkcs8-pasword=hunter2")
        assert "Did you mean --pkcs8-password?" in outcome.err
        assert "hunter2" not in outcome.err
