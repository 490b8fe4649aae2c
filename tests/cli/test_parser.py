"""The grammar of the command line, the profiles that complete it, and that no secret is echoed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import EXCLUSIVE, IDENTITY, IN_PROFILES, PROFILE, SESSION, Flag
from hwsigner._identity.selector import parse_selector
from hwsigner.errors import UsageError

FLAGS = {flag.name: flag for flag in IDENTITY + SESSION + PROFILE}
SWITCHES = [flag.name for flag in FLAGS.values() if not flag.metavar]
TEXTS = [flag.name for flag in FLAGS.values() if flag.convert is str]
SECRET = "hunter2"
UNSAID = [name for name in FLAGS if name not in SWITCHES and not FLAGS[name].many]


def parser() -> Parser:
    parser = Parser("test", "for tests")
    parser.add_flags(IDENTITY, SESSION, PROFILE)
    return parser


def parse(*arguments: str) -> Arguments:
    return parser().parse(arguments)


def refused(*arguments: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert caught.value.exit_status == 2
    assert SECRET not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
    return caught.value


class TestValues:
    @pytest.mark.parametrize("flag", ["--cert-selector=", "--cert-selector "])
    def test_selector_may_be_several_arguments(self, flag: str) -> None:
        parts = ["Key=x509Subject,Value=CN=Subject", "Key=x509Issuer,Value=CN=Issuer", "Key=x509Serial,Value=15D1"]
        given = [*f"{flag}{' '.join(parts)}".split(), "--debug"]
        assert vars(parse(*given)) == {"cert_selector": " ".join(parts), "debug": True}
        assert parse_selector(parse(*given).cert_selector) == parse_selector(" ".join(parts))
        refused(*parts)
        refused("--cert-selector", *parts, "x")

    @given(name=st.sampled_from(TEXTS), value=st.text())
    def test_value_may_follow_a_space_or_an_equals_sign(self, name: str, value: str) -> None:
        attribute = name.replace("-", "_")
        for arguments in ((f"--{name}", value), (f"--{name}={value}",)):
            assert vars(parse(*arguments)) == {attribute: value or None}

    @pytest.mark.parametrize("value", ["-x", "--x", "--debug", "--", "-", "--certificate=x", "a b", "=", "-1"])
    def test_value_may_look_like_a_flag(self, value: str) -> None:
        parsed = parse("--certificate", value, "--debug", f"--endpoint={value}")
        assert (parsed.certificate, parsed.debug, parsed.endpoint) == (value, True, value)

    @pytest.mark.parametrize("name", TEXTS)
    def test_last_value_of_a_repeated_flag_applies(self, name: str) -> None:
        parsed = parse(f"--{name}=a", f"--{name}", "b", f"--{name}=c")
        assert vars(parsed) == {name.replace("-", "_"): "c"}

    @pytest.mark.parametrize("name", UNSAID)
    def test_missing_value_is_an_error(self, name: str) -> None:
        assert f"--{name} has no value" in refused("--debug", f"--{name}").message

    def test_repeatable_flag_keeps_every_value(self) -> None:
        parsed = parse("--instance-property", "a=b", "--instance-property=c=d=e")
        assert parsed.instance_property == [("a", "b"), ("c", "d=e")]

    def test_empty_value_is_the_default(self) -> None:
        parser = Parser("test", "for tests")
        parser.add_flags([Flag("address", "where to listen", "IP", default="127.0.0.1")])
        assert parser.parse(["--address="]).address == "127.0.0.1"

    def test_empty_value_of_a_repeatable_flag_is_left_out(self) -> None:
        parser = Parser("test", "for tests")
        parser.add_flags([Flag("user", "", "USER", many=True)])
        assert parser.parse(["--user=", "--user", "a", "--user", ""]).user == ["a"]
        assert parser.parse(["--user="]).user == []


class TestSwitches:
    @pytest.mark.parametrize("name", SWITCHES)
    def test_switch_takes_true_and_false(self, name: str) -> None:
        attribute = name.replace("-", "_")
        for text in ("1", "t", "T", "true", "True", "TRUE"):
            assert vars(parse(f"--{name}={text}")) == {attribute: True}
        for text in ("0", "f", "F", "false", "False", "FALSE"):
            assert vars(parse(f"--{name}={text}")) == {attribute: False}
        assert vars(parse(f"--{name}=false", f"--{name}")) == {attribute: True}
        assert vars(parse(f"--{name}", f"--{name}=false")) == {attribute: False}

    @pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", "2", " true"])
    def test_other_value_of_a_switch_is_an_error(self, text: str) -> None:
        assert "--debug is" in refused(f"--debug={text}").message

    def test_switch_does_not_take_the_next_argument(self) -> None:
        parsed = parse("--debug", "--certificate", "c")
        assert (parsed.debug, parsed.certificate) == (True, "c")
        refused("--debug", "false")


class TestUnknown:
    @pytest.mark.parametrize("name", FLAGS)
    def test_abbreviated_flag_is_an_error(self, name: str) -> None:
        for short in (name[:-1], name[:4]):
            if short not in FLAGS:
                assert f"unknown flag --{short}" in refused(f"--{short}", "x").message
                assert f"unknown flag --{short}" in refused(f"--{short}=x").message

    @pytest.mark.parametrize(
        ("flag", "hint"),
        [
            ("--certifcate", "Did you mean --certificate?"),
            ("--role_arn", "Did you mean --role-arn?"),
            ("--xyz", "See hwsigner test --help"),
        ],
    )
    def test_misspelt_flag_gets_a_suggestion(self, flag: str, hint: str) -> None:
        assert refused(f"{flag}={SECRET}").hint == hint

    @pytest.mark.parametrize("argument", ["-x", "-certificate", "--", "---debug", "-"])
    def test_other_dashes_are_an_error(self, argument: str) -> None:
        refused(argument, SECRET)

    @pytest.mark.parametrize(
        "arguments", [(SECRET,), ("--debug", SECRET), ("--", SECRET), ("--region", "x", SECRET, "y")]
    )
    def test_unexpected_argument_is_an_error(self, arguments: tuple[str, ...]) -> None:
        assert "unexpected argument" in refused(*arguments).message

    def test_value_of_a_boolean_flag_after_a_space_is_an_error_that_says_how_to_write_it(self) -> None:
        assert refused("--debug", "false").message == "unexpected argument false"
        assert refused("--debug", "false").hint == "A flag takes it after an equals sign: --FLAG=false"

    def test_selector_with_a_space_is_to_be_quoted(self) -> None:
        error = refused("--cert-selector", "Key=x509Subject,", "Value=CN=x")
        assert error.hint == "Put the whole value of --cert-selector in quotes, if it has a space"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--pkcs8-pasword", SECRET),
            (f"--pkcs8-pasword={SECRET}",),
            ("--pkcs8-password", "two", SECRET),
            ("--tpm-key-passwords", SECRET, "--region", "x"),
            ("--pkcs8-password", SECRET, "--tpm-key-password", SECRET),
            ("--tpm-key-password", SECRET, "--no-tpm-key-password"),
            ("--pkcs8-password", SECRET, "--session-duration", "x"),
            ("-p", SECRET),
            (f"-p={SECRET}",),
            ("--", "--pkcs8-password", SECRET),
        ],
    )
    def test_errors_do_not_echo_secrets(self, arguments: tuple[str, ...]) -> None:
        refused(*arguments)


class TestExclusive:
    @staticmethod
    def given(name: str) -> str:
        return f"--{name}" if name in SWITCHES else f"--{name}=x"

    @pytest.mark.parametrize(("one", "other"), EXCLUSIVE)
    def test_exclusive_flags_are_an_error_in_either_order(self, one: str, other: str) -> None:
        for arguments in ((self.given(one), self.given(other)), (self.given(other), self.given(one))):
            message = refused(*arguments).message
            assert f"--{one}" in message
            assert f"--{other}" in message

    @pytest.mark.parametrize(("one", "other"), [pair for pair in EXCLUSIVE if set(pair) & set(SWITCHES)])
    def test_switch_that_is_off_excludes_nothing(self, one: str, other: str) -> None:
        parse(*(f"--{name}=false" if name in SWITCHES else f"--{name}=x" for name in (one, other)))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "hwsigner").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path)}


@pytest.fixture
def config(environ: dict[str, str]) -> Path:
    """The user's config.toml, which only the user can read."""
    path = Path(environ["XDG_CONFIG_HOME"], "hwsigner", "config.toml")
    path.touch(0o600)
    return path


def complete(environ: dict[str, str], *arguments: str) -> Arguments:
    test = parser()
    return test.complete(test.parse(arguments), environ)


class TestComplete:
    def test_defaults_complete_an_empty_command_line(self, environ: dict[str, str]) -> None:
        values = complete(environ)
        expected = {flag.attribute: flag.default for flag in FLAGS.values() if flag.name not in IN_PROFILES}
        nothing = dict.fromkeys(("exposed", "found", "hidden"))
        assert vars(values) == {**expected, "settings": values.settings, "given": [], **nothing}
        assert vars(values.settings) == {}

    def test_flags_take_precedence_over_the_profile_and_the_profile_over_defaults(
        self, config: Path, environ: dict[str, str]
    ) -> None:
        config.write_text('[profile.web]\nregion = "profile"\nsession-duration = 1800\nendpoint = "profile"\n')
        values = complete(environ, "--profile", "web", "--region", "given")
        found = values.settings
        assert (found.region, found.session_duration, found.endpoint) == ("given", 1800, "profile")
        assert found.read_timeout == 15.0
        assert [(flag.name, value) for flag, value in values.given] == [("region", "given"), ("profile", "web")]

    def test_profile_flags_may_not_name_two_profiles(self, config: Path, environ: dict[str, str]) -> None:
        config.write_text('[profile.web]\nregion = "profile"\n')
        for arguments in (("--profile=web",), ("--config-profile=web",), ("--profile=web", "--config-profile=web")):
            assert complete(environ, *arguments).settings.region == "profile"
        with pytest.raises(UsageError, match="two profiles"):
            complete(environ, "--profile=web", "--config-profile=db")

    def test_every_flag_is_a_key_of_a_profile(self, config: Path, environ: dict[str, str]) -> None:
        for flag in IDENTITY + SESSION:
            if not flag.metavar:
                text, value = "true", True
            elif flag.many:
                text, value = '["a=b", "c=d"]', [("a", "b"), ("c", "d")]  # type: ignore[assignment]
            else:
                text, value = ("1000", 1000) if flag.convert is not str else ('"x"', "x")  # type: ignore[assignment]
            config.write_text(f"[profile.web]\n{flag.name} = {text}\n")
            assert getattr(complete(environ, "--profile=web").settings, flag.attribute) == value

    def test_flag_switches_off_a_switch_of_the_profile(self, config: Path, environ: dict[str, str]) -> None:
        config.write_text("[profile.web]\ndebug = true\nstrict = true\n")
        values = complete(environ, "--profile=web", "--debug=false").settings
        assert (values.debug, values.strict) == (False, True)

    def test_instance_properties_may_be_a_table(self, config: Path, environ: dict[str, str]) -> None:
        config.write_text('[profile.web.instance-property]\na = "b"\nc = "d"\n')
        assert complete(environ, "--profile=web").settings.instance_property == [("a", "b"), ("c", "d")]
        assert complete(environ, "--profile=web", "--instance-property=e=f").settings.instance_property == [("e", "f")]

    @pytest.mark.parametrize(("one", "other"), [*EXCLUSIVE, *(pair[::-1] for pair in EXCLUSIVE)])
    def test_flag_drops_the_keys_of_the_profile_that_it_excludes(
        self, one: str, other: str, config: Path, environ: dict[str, str]
    ) -> None:
        text = "true" if other in SWITCHES else '"x"'
        config.write_text(f"[profile.web]\n{other} = {text}\n")
        values = complete(environ, "--profile=web", TestExclusive.given(one))
        assert not getattr(values.settings, other.replace("-", "_"))

    @pytest.mark.parametrize("mode", [0o600, 0o644])
    def test_exposed_is_the_file_that_others_can_read(self, mode: int, config: Path, environ: dict[str, str]) -> None:
        config.write_text("[profile.web]\n")
        config.chmod(mode)
        assert complete(environ, "--profile=web").exposed == (str(config) if mode == 0o644 else None)


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for flag in FLAGS.values():
        assert f"--{flag.name}" in shown
    assert "(default: 3600)" in shown
