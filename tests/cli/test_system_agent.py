"""`hwsigner systemd install --system --allow-user`: it ends with an agent that works, or says what is missing."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from hwsigner._agent import client
from hwsigner._agent.protocol import AgentRequest
from hwsigner._cli import system_agent, systemd
from hwsigner._config import profiles
from hwsigner.errors import AgentError
from judges import needs_systemd
from scene import Outcome

pytestmark = [pytest.mark.root, needs_systemd]

Call = Callable[..., Outcome]
INSTALL = ("systemd", "install", "--system", "--allow-user", "daemon")
ARN = "arn:aws:rolesanywhere:eu-west-1:123456789012:"
PROFILE = f"""
certificate = "/etc/hwsigner/web.crt"
private-key = "handle:0x81000100"
trust-anchor-arn = "{ARN}trust-anchor/a1a1a1a1-0000-4000-8000-000000000001"
profile-arn = "{ARN}profile/a1a1a1a1-0000-4000-8000-000000000002"
role-arn = "arn:aws:iam::123456789012:role/web"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's config.toml, on a machine where a package has put the units, and whose agent has credentials."""
    (tmp_path / "bin").mkdir()
    for name in ("systemctl", "systemd-sysusers", "hwsigner", "hwsigner-credentials"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/log\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / "hwsigner")])
    monkeypatch.setattr(systemd, "_is_packaged", lambda **_: True)
    monkeypatch.setattr(system_agent, "hidden_files", lambda _: [])
    monkeypatch.setattr(system_agent, "wait_for_system_agent", lambda _: b"{}")
    path = tmp_path / "etc" / "config.toml"
    path.parent.mkdir()
    path.write_text(f"[profile.web]{PROFILE}")
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(path))
    return path


def refused(outcome: Outcome, status: int, *parts: str) -> None:
    assert (outcome.status, outcome.err.count("\n")) == (status, 1)
    for part in parts:
        assert part in outcome.err


def test_only_profile_is_given_to_the_user_and_the_agent_is_started(file: Path, call: Call, tmp_path: Path) -> None:
    done = call(*INSTALL, "--allow-user=@daemon")
    assert (done.status, done.err) == (0, "")
    assert tomllib.loads(file.read_text())["profile"]["web"]["allow-users"] == ["daemon", "@daemon"]
    program = tmp_path / "bin" / "hwsigner-credentials"
    assert f"[profile web]\nregion = eu-west-1\ncredential_process = {program} --profile web\n" in done.out
    commands = (tmp_path / "log").read_text().splitlines()
    assert commands == ["systemctl enable --now hwsigner-agent.socket", "systemctl start hwsigner-agent.service"]


def test_user_is_added_to_those_that_there_are_and_the_timer_is_named(file: Path, call: Call) -> None:
    file.write_text(f'[profile.web]{PROFILE}allow-users = ["1234"]\nissuer-command = "ca"\n')
    for _ in range(2):
        assert "systemctl enable --now hwsigner-renew@web.timer" in call(*INSTALL).out
        assert tomllib.loads(file.read_text())["profile"]["web"]["allow-users"] == ["1234", "daemon"]


@pytest.mark.parametrize(
    ("text", "flags", "parts"),
    [
        ("", (), ("has no profile", "hwsigner enroll NAME --system")),
        (f"[profile.web]{PROFILE}[profile.db]{PROFILE}", (), ("has several profiles", "--profile with one of db, web")),
        (f"[profile.web]{PROFILE}", ("--profile=db",), ("no profile 'db'", "Profiles there: web")),
        (f"[profile.web]{PROFILE}", ("--allow-user=absent",), ("no user 'absent'", "useradd --system absent")),
        (f"[profile.web]{PROFILE}", ("--allow-user=@absent",), ("no group 'absent'", "groupadd --system absent")),
        (
            "[profile.web]\nregion = 'x'\n",
            (),
            ("no certificate", "install-certificate CERTIFICATE KEY-URI --profile web"),
        ),
        (f"[profile.web]{PROFILE}allow-users = 'root'\n", (), ("[profile.web] has", "allow-users")),
        (
            "[profile.web]\ncertificate = 'x'\n",
            (),
            ("no trust-anchor-arn, profile-arn, role-arn", "profile edit web --system --trust-anchor-arn ARN"),
        ),
    ],
)
def test_missing_part_is_named_before_anything_changes(
    file: Path, call: Call, tmp_path: Path, text: str, flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    file.write_text(text)
    refused(call(*INSTALL, *flags), 2, *parts)
    assert file.read_text() == text
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("flags", [("--user", "--allow-user=daemon"), ("--system", "--profile=web")])
def test_flag_that_is_not_for_the_system_s_agent_is_refused(call: Call, flags: tuple[str, ...]) -> None:
    refused(call("systemd", "install", *flags), 2, "for the system's agent", "install --system --allow-user USER")
    refused(call("systemd", "uninstall", *flags), 2, "for the system's agent")


@pytest.mark.usefixtures("file")
def test_file_that_the_agent_can_t_read_is_an_error_with_the_command(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_agent, "hidden_files", lambda _: [("/root/web.crt", "Move it")])
    refused(call(*INSTALL), 2, "the system's agent can't read /root/web.crt. Move it")


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("is_served", [True, False])
def test_agent_that_gets_no_credentials_is_an_error(
    call: Call, monkeypatch: pytest.MonkeyPatch, *, is_served: bool
) -> None:
    asked: list[AgentRequest] = []

    def wait(_: str) -> None:
        if is_served:
            raise AgentError("an earlier failure", exit_status=3)

    def fail(address: client.Address, request: AgentRequest) -> str:
        asked.append(request)
        raise AgentError("the service refused", exit_status=5)

    monkeypatch.setattr(system_agent, "wait_for_system_agent", wait)
    monkeypatch.setattr(system_agent, "command", fail)
    refused(call(*INSTALL), 5, "the service refused")
    assert [each.name for each in asked] == ["web"]
