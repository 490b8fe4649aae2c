"""The table of flags: valid values, keys of a profile, and secrets that are never shown."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._config.flags import (
    EXCLUSIVE,
    IDENTITY,
    PROFILE,
    SESSION,
    Flag,
    check_exclusive,
    converted,
    profile_values,
)
from hwsigner._config.profiles import Profile
from hwsigner.errors import ConfigError, UsageError

FLAGS = {flag.name: flag for flag in IDENTITY + SESSION + PROFILE}
SECRET = "hunter2"
FILE = "/home/me/config.toml"


def refused(name: str, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        FLAGS[name].value(text)
    assert f"--{name} is" in caught.value.message
    assert len(caught.value.message) < 250
    return caught.value.message


def profile(content: str, **given: Any) -> dict[str, Any]:
    """Return the values of a profile with this content, with some given flags; without its name."""
    values = profile_values(Profile("web", FILE, tomllib.loads(content), exposed=False), given)
    values.pop("profile_name", None)
    return values


def example(name: str) -> tuple[str, Any]:
    """Return an example value of a flag, in TOML and converted."""
    flag = FLAGS[name]
    if not flag.metavar:
        return "true", True
    if flag.many:
        return '["a=b", "c=d"]', [("a", "b"), ("c", "d")]
    return ('"x"', "x") if flag.convert is str else ("1000", 1000)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('allow-users = "alice"', 'Write ["VALUE"]'),
        ('instance-property = "a=b"', 'Write ["VALUE"]'),
        ("region = true", 'Write "VALUE"'),
        ('region = ["eu-central-1"]', 'Write "VALUE"'),
        ("no-verify-ssl = []", "Write true or false"),
    ],
)
def test_value_of_the_wrong_type_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        profile(text)
    assert str(refused.value).endswith(f"{text.partition(' ')[0]} with a value of the wrong type. {hint}")


class TestValues:
    @pytest.mark.parametrize("name", ["timeout", "connect-timeout", "read-timeout"])
    def test_seconds_are_within_bounds(self, name: str) -> None:
        for text, value in (("1", 1.0), ("0.5", 0.5), ("1e3", 1000.0), ("86400", 86400.0), ("1e-9", 1e-9)):
            assert FLAGS[name].value(text) == value
        for text in ("0", "-1", "inf", "-inf", "nan", "1e999", "86400.1", "", "1s", "0x10", "9" * 5000):
            refused(name, text)

    @pytest.mark.parametrize(
        "text", ["899", "43201", "-900", "+900", "900.0", "1e3", "", "٩٠٠", "９００", "9" * 5000, " 900"]
    )
    def test_invalid_session_duration_is_refused(self, text: str) -> None:
        assert "900 to 43200" in refused("session-duration", text)

    @pytest.mark.parametrize("text", ["900", "43200", "0900"])
    def test_session_duration_is_converted(self, text: str) -> None:
        assert FLAGS["session-duration"].value(text) == int(text)

    @pytest.mark.parametrize("text", ["", "a", "=b", "a=", f"{'a' * 201}=b", f"a={'b' * 201}"])
    def test_invalid_instance_property_is_refused(self, text: str) -> None:
        refused("instance-property", text)

    def test_invalid_secret_is_not_shown(self) -> None:
        flag = Flag("pin", "a number", "PIN", int, secret=True)
        with pytest.raises(UsageError) as caught:
            flag.value(SECRET)
        assert SECRET not in str(caught.value)

    def test_flags_have_few_defaults(self) -> None:
        assert {name for name, flag in FLAGS.items() if flag.default not in (None, False)} == {
            "session-duration",
            "connect-timeout",
            "read-timeout",
            "timeout",
        }


class TestProfiles:
    @pytest.mark.parametrize("name", [flag.name for flag in IDENTITY + SESSION])
    def test_every_flag_is_a_key_of_a_profile(self, name: str) -> None:
        text, value = example(name)
        assert profile(f"{name} = {text}") == {FLAGS[name].attribute: value}

    @given(text=st.text(st.characters(codec="utf-8")).filter(lambda text: not text.lower().startswith(("-", "fd:"))))
    def test_text_of_a_profile_is_unchanged(self, text: str) -> None:
        found = Profile("web", FILE, {"certificate": text, "pkcs8-password": text}, exposed=False)
        assert profile_values(found, {}) == {
            "certificate": text or None,
            "pkcs8_password": text or None,
            "profile_name": "web",
        }

    @pytest.mark.parametrize("name", ["certificate", "private-key", "intermediates"])
    @pytest.mark.parametrize("place", ["-", "fd:7", "FD:0", "-?pin-source=env:A"])
    def test_open_file_in_a_profile_is_an_error(self, name: str, place: str) -> None:
        with pytest.raises(ConfigError, match=rf"\[profile.web\]: --{name} is '.*', which a profile can't name"):
            profile(f"{name} = '{place}'")

    def test_instance_properties_may_be_a_table(self) -> None:
        assert profile("instance-property = {a = 'b', c = 'd'}") == {"instance_property": [("a", "b"), ("c", "d")]}

    @pytest.mark.parametrize(("one", "other"), [*EXCLUSIVE, *(pair[::-1] for pair in EXCLUSIVE)])
    def test_given_flag_drops_the_keys_that_it_excludes(self, one: str, other: str) -> None:
        content = f"{other} = {example(other)[0]}"
        given = {FLAGS[one].attribute: example(one)[1]}
        assert profile(content, **given) == {}
        assert profile(content, **dict.fromkeys(given)) == {FLAGS[other].attribute: example(other)[1]}

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            ("regoin = 'x'", "'regoin'"),
            ("role_arn = 'x'", "'role_arn'"),
            ("profile = 'x'", "'profile'"),
            ("digest = 'SHA256'", "'digest'"),
            ("certificate = true", "certificate"),
            ("pkcs8-password = true", "pkcs8-password"),
            ("certificate = ['x']", "certificate"),
            ("certificate = {x = 1}", "certificate"),
            ("certificate = 2026-01-01", "certificate"),
            ("session-duration = 60", "session-duration"),
            ("session-duration = true", "session-duration"),
            ("session-duration = 3600.0", "session-duration"),
            ("timeout = inf", "timeout"),
            ("timeout = nan", "timeout"),
            ("debug = 'maybe'", "debug"),
            ("debug = 7", "debug"),
            ("instance-property = 'a=b'", "instance-property"),
            ("instance-property = 1", "instance-property"),
            ("instance-property = [1]", "instance-property"),
            ("instance-property = ['x']", "instance-property"),
            ("instance-property = {a = ''}", "instance-property"),
            ("certificate = 'x'\ncert-selector = 'y'", "exclude each other"),
            (f"pkcs8-password = '{SECRET}'\ntpm-key-password = '{SECRET}'", "exclude each other"),
            (f"pkcs8-password = ['{SECRET}']", "pkcs8-password"),
        ],
    )
    def test_invalid_profile_is_refused_with_its_place(self, content: str, named: str) -> None:
        with pytest.raises(ConfigError) as caught:
            profile(content)
        assert caught.value.message.startswith(f"{FILE}: [profile.web]")
        assert named in caught.value.message
        assert SECRET not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(("one", "other"), EXCLUSIVE)
def test_exclusive_flags_are_refused_together(one: str, other: str) -> None:
    values = {FLAGS[name].attribute: example(name)[1] for name in (one, other)}
    with pytest.raises(UsageError, match=f"--{one} and --{other} exclude each other"):
        check_exclusive(values)
    check_exclusive({**values, FLAGS[one].attribute: None})
    check_exclusive({**values, FLAGS[other].attribute: False})


@pytest.mark.parametrize("flag", IDENTITY + SESSION, ids=lambda flag: flag.name)
def test_value_is_the_same_after_writing_toml(flag: Flag) -> None:
    value = example(flag.name)[1]
    found = Profile("web", FILE, {flag.name: flag.toml(value)}, exposed=False)
    assert profile_values(found, {}) == {flag.attribute: value, "profile_name": found.name}


@pytest.mark.parametrize(
    ("content", "given", "is_its_key"),
    [
        ('private-key = "k"', {"certificate": "other"}, True),
        ('certificate = "c"', {"role_arn": "other"}, True),
        ('certificate = "c"', {"certificate": "other"}, False),
        ('private-key = "k"', {"private_key": "other"}, False),
        ('private-key = "k"', {"cert_selector": "other"}, False),
    ],
)
def test_profile_s_pin_is_not_for_a_key_that_a_flag_names(
    content: str, given: dict[str, str], is_its_key: bool
) -> None:
    values = profile_values(Profile("web", FILE, tomllib.loads(content), exposed=False), given)
    assert values.get("profile_name") == ("web" if is_its_key else None)


@pytest.mark.parametrize("value", [[7], 7, [None], True])
def test_list_of_something_else_than_text_is_of_the_wrong_type(value: object) -> None:
    with pytest.raises(ConfigError, match="instance-property with a value of the wrong type") as caught:
        converted({"instance_property": value})
    assert "object" not in str(caught.value)
