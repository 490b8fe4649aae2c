"""Colours: where the conventions want them, and never in what programs read."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from hwsigner._cli.colours import has_colours
from scene import Outcome

Call = Callable[..., Outcome]


class Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.parametrize(
    ("environ", "on_terminal", "elsewhere"),
    [
        ({}, True, False),
        ({"TERM": "xterm"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": "0"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"CLICOLOR_FORCE": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, True, False),
        ({"CLICOLOR_FORCE": ""}, True, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, False),
    ],
)
def test_stream_has_colours_by_the_conventions(environ: dict[str, str], on_terminal: bool, elsewhere: bool) -> None:
    assert has_colours(Stream(is_terminal=True), environ) == on_terminal
    assert has_colours(Stream(is_terminal=False), environ) == elsewhere


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config.toml with a profile whose certificate is absent."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("hwsigner._config.profiles.SYSTEM_FILE", str(tmp_path / "none"))
    path = tmp_path / "hwsigner" / "config.toml"
    path.parent.mkdir(mode=0o700)
    path.touch(0o600)
    path.write_text('[profile.web]\ncertificate = "/absent.pem"\n')
    return path


def test_doctor_s_findings_are_red_when_colours_are_forced(
    config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = call("doctor").out
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = call("doctor").out
    assert "\x1b" not in plain
    assert "\n\x1b[31mweb: certificate-unreadable\x1b[0m\n" in coloured
    assert coloured.replace("\x1b[31m", "").replace("\x1b[0m", "") == plain


@pytest.mark.parametrize("command", ["doctor", "status", "profile list"])
def test_json_and_tabs_have_no_colours(command: str, config: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in call(*command.split(), "--output=json").out
    assert "\x1b" not in call("status").out


def test_problem_of_a_profile_is_red_in_a_terminal_s_table(
    config: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[31mweb: " in call("status").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in call("status").out
