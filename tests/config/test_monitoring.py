"""The table `[monitoring]` of config.toml, and the flags that take precedence."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsigner._config import profiles as config
from hwsigner._config.monitoring import MONITORING, Monitoring, read_monitoring
from hwsigner._config.profiles import add_profile, change_profile, profiles, remove_profile
from hwsigner.errors import ConfigError, HwsignerWarning, UsageError

TABLE = '[monitoring]\nlog-format = "json"\naudit-log = "/var/log/hwsigner/audit.log"\n'


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with a configuration of its own; the system's file is `system.toml` beside it."""
    monkeypatch.setattr(config, "SYSTEM_FILE", str(tmp_path / "system.toml"))
    (tmp_path / "hwsigner").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def write(environ: dict[str, str], text: str) -> Path:
    path = Path(environ["XDG_CONFIG_HOME"], "hwsigner", "config.toml")
    path.write_text(text)
    return path


def test_nothing_is_audited_by_default(environ: dict[str, str]) -> None:
    values = read_monitoring(environ)
    assert (values.log_level, values.log_format, values.audit_log, values.audit) == ("info", "auto", None, "warn")


@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent"])
def test_user_without_a_home_folder_has_the_defaults(environ: dict[str, str], home: str) -> None:
    assert vars(read_monitoring({"HOME": home})) == vars(read_monitoring(environ)) == {}


def test_flags_take_precedence_over_the_table(environ: dict[str, str]) -> None:
    write(environ, TABLE)
    values = read_monitoring(environ, {"log_format": "text", "audit_log": None, "role_arn": "other"})
    assert values.log_format == "text"
    assert values.audit_log == "/var/log/hwsigner/audit.log"
    assert not hasattr(values, "role_arn")


def test_rate_of_audit_lines_is_a_number_of_the_table(environ: dict[str, str]) -> None:
    write(environ, f"{TABLE}audit-rate = 100\n")
    assert read_monitoring(environ).audit_rate == 100


@pytest.mark.parametrize("given", [{}, {"audit_rate": 100}])
def test_rate_without_an_audit_log_is_a_warning(environ: dict[str, str], given: dict[str, int]) -> None:
    write(environ, "[monitoring]\n" + ("" if given else "audit-rate = 100\n"))
    with pytest.warns(HwsignerWarning, match="audit-rate has no effect, because there is no audit-log"):
        read_monitoring(environ, given)


def test_each_flag_has_an_attribute_of_its_type() -> None:
    assert Monitoring.__annotations__.keys() == {flag.attribute for flag in MONITORING}


def test_table_of_the_user_replaces_the_system_s(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text('[monitoring]\nlog-level = "debug"\nlog-format = "text"\n')
    assert read_monitoring(environ).log_level == "debug"
    write(environ, TABLE)
    values = read_monitoring(environ)
    assert (values.log_level, values.log_format) == ("info", "json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("monitoring = 1", "is not a table"),
        ("[monitoring]\nmetrics = true", "'metrics', which is not a flag"),
        ('[monitoring]\nlog-level = "loud"', "log-level with an invalid value"),
        ("[monitoring]\naudit-rate = 0", "audit-rate with an invalid value"),
        ("[monitoring]\naudit-log = 1.5.", "is not TOML"),
    ],
)
def test_invalid_table_is_an_error(environ: dict[str, str], text: str, problem: str) -> None:
    write(environ, text)
    with pytest.raises(ConfigError, match=problem):
        read_monitoring(environ)


def test_file_that_can_t_be_read_gets_the_hint_of_profiles(environ: dict[str, str]) -> None:
    file = Path(environ["XDG_CONFIG_HOME"], "hwsigner", "config.toml")
    file.mkdir()
    hints = []
    for read in (read_monitoring, profiles):
        with pytest.raises(ConfigError, match=f"can't read {file}: Is a directory") as refused:
            read(environ)
        hints.append(refused.value.hint)
    assert hints == ["It must be a file that you may read"] * 2


def test_required_audit_needs_a_place(environ: dict[str, str]) -> None:
    write(environ, '[monitoring]\naudit = "required"\n')
    with pytest.raises(UsageError, match="audit is required, and there is no audit-log"):
        read_monitoring(environ)


@pytest.mark.parametrize("place", ["audit.log", "", "/audit\0.log"])
def test_place_that_is_no_absolute_path_is_an_error(environ: dict[str, str], place: str) -> None:
    with pytest.raises(UsageError, match="Write an absolute path, journal or stderr") as refused:
        read_monitoring(environ, {"audit_log": place})
    assert refused.value.message == f"audit-log is {place!r}, which is not a place for it"


def test_profiles_are_added_changed_and_removed_beside_the_table(environ: dict[str, str]) -> None:
    path = write(environ, TABLE)
    add_profile("web", {"role-arn": "r"}, environ)
    change_profile("web", {"role-arn": "s", "certificate": "/c"}, environ)
    assert profiles(environ)["web"].values == {"role-arn": "s", "certificate": "/c"}
    add_profile("web", {"role-arn": "t"}, environ, replace=True)
    remove_profile("web", environ)
    assert path.read_text().startswith(TABLE)
    assert read_monitoring(environ).log_format == "json"
