"""The pace of a profile's renewal timer: its drop-in, and what systemd makes of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import certs
import hwsigner
from hwsigner._config.profiles import SYSTEM_FILE
from hwsigner._identity.certificate import Certificate, load
from hwsigner._system import systemd
from hwsigner.enrolment import pace
from hwsigner.errors import HwsignerError, HwsignerWarning
from hwsigner.key import FoundCertificate

CA = certs.make_ca()
KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
HOUR = timedelta(hours=1)


def leaf(life: timedelta) -> Certificate:
    begin = datetime.now(UTC)
    issued = certs.issue(CA, KEY, certs.Shape(begin=begin, end=begin + life))
    return load([FoundCertificate(issued.public_bytes(Encoding.DER), "leaf.pem")])[0]


@dataclass
class Machine:
    """A home folder on a machine with systemd, whose `systemctl` notes what it is told."""

    home: Path

    @property
    def drop_in(self) -> Path:
        return self.home / "systemd" / "user" / "hwsigner-renew@web.timer.d" / "50-hwsigner.conf"

    @property
    def calls(self) -> list[str]:
        log = self.home / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def set_pace(self, life: timedelta) -> str:
        return pace.set_pace("web", str(self.home / "hwsigner" / "config.toml"), leaf(life))

    def write_systemctl(self, script: str) -> None:
        program = self.home / "bin" / "systemctl"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    made.write_systemctl(f'echo "$*" >> {tmp_path}/calls')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(systemd, "_BOOTED", str(tmp_path))
    return made


def test_timer_of_a_short_life_looks_more_often_and_systemd_is_told_once(machine: Machine) -> None:
    for _ in range(2):
        assert machine.set_pace(HOUR) == f"{machine.drop_in}: a look every 90 s, once the timer is enabled"
    lines = machine.drop_in.read_text().splitlines()[1:]
    assert lines == [
        "[Timer]",
        "OnCalendar=",
        "OnActiveSec=45s",
        "OnUnitInactiveSec=45s",
        "RandomizedDelaySec=45s",
        "AccuracySec=1s",
    ]
    assert machine.drop_in.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in machine.drop_in.parent.iterdir()] == ["50-hwsigner.conf"]
    assert machine.calls == ["--user daemon-reload"]


def test_drop_in_changes_and_goes_with_the_life(machine: Machine) -> None:
    machine.set_pace(HOUR)
    assert machine.set_pace(HOUR / 6).endswith("a look every 15 s, once the timer is enabled")
    assert "OnUnitInactiveSec=7s" in machine.drop_in.read_text()
    assert machine.set_pace(30 * 24 * HOUR) == ""
    assert not machine.drop_in.exists()
    assert len(machine.calls) == 3


def test_what_a_killed_run_left_is_replaced_and_no_link_is_followed(machine: Machine) -> None:
    machine.drop_in.parent.mkdir(parents=True)
    other = machine.home / "other"
    other.write_text("kept")
    machine.drop_in.with_name("50-hwsigner.conf.new").symlink_to(other)
    machine.set_pace(HOUR)
    assert [path.name for path in machine.drop_in.parent.iterdir()] == ["50-hwsigner.conf"]
    assert other.read_text() == "kept"


def test_long_life_writes_nothing(machine: Machine) -> None:
    assert machine.set_pace(10 * HOUR) == ""
    assert (list(machine.home.iterdir()), machine.calls) == ([machine.home / "bin"], [])


def test_machine_without_systemd_gets_no_drop_in_and_the_command_to_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_BOOTED", "/absent")
    said = machine.set_pace(HOUR)
    assert said == "systemd does not run here: run hwsigner renew --if-due web every 90 s"
    assert not machine.drop_in.parent.exists()


def test_mac_gets_no_drop_in_and_the_command_for_launchd(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.set_pace(HOUR) == "run hwsigner launchd install renew web --every 90"
    assert not machine.drop_in.exists()


def test_timer_of_a_mac_is_the_property_list_of_launchd(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", str(machine.home))
    assert not pace.is_timer_enabled("web", system=False)
    (machine.home / "Library" / "LaunchAgents").mkdir(parents=True)
    (machine.home / "Library" / "LaunchAgents" / "hwsigner.renew.web.plist").touch()
    assert pace.is_timer_enabled("web", system=False)
    assert not pace.is_timer_enabled("web", system=True)


def enable(machine: Machine) -> Path:
    link = machine.home / "systemd" / "user" / "timers.target.wants" / "hwsigner-renew@web.timer"
    link.parent.mkdir(parents=True)
    link.symlink_to("/usr/lib/systemd/user/hwsigner-renew@.timer")
    return link


def test_ended_timer_is_disabled_and_its_drop_in_goes(machine: Machine) -> None:
    machine.set_pace(HOUR)
    machine.write_systemctl(f'echo "$@" >> {machine.home}/calls; rm -f {enable(machine)}')
    pace.end_timer("web", system=False)
    assert machine.calls[-1] == "--user disable --now hwsigner-renew@web.timer"
    assert not machine.drop_in.exists()


def test_timer_is_ended_where_systemd_does_not_run(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    link = enable(machine)
    monkeypatch.setattr(systemd, "_BOOTED", "/absent")
    pace.end_timer("web", system=False)
    assert (link.is_symlink(), machine.calls) == (False, [])


@pytest.mark.parametrize(
    ("script", "reason", "hint"),
    [
        (
            "echo no bus >&2; exit 1",
            "is still enabled: no bus",
            "Run systemctl --user disable hwsigner-renew@web.timer",
        ),
        ("", "is still enabled", "Run systemctl --global disable hwsigner-renew@web.timer"),
    ],
)
def test_timer_that_stays_enabled_is_an_error(machine: Machine, script: str, reason: str, hint: str) -> None:
    enable(machine)
    machine.write_systemctl(script)
    with pytest.raises(HwsignerError, match=rf"{reason}\. {hint}"):
        pace.end_timer("web", system=False)


def test_drop_in_that_can_not_be_written_is_warned_of(machine: Machine) -> None:
    (machine.home / "systemd").write_text("")
    with pytest.warns(HwsignerWarning, match="can't be set to look every 90 s: .*50-hwsigner.conf: Not a dir") as seen:
        assert machine.set_pace(HOUR) == ""
    assert len(seen) == 1


@pytest.mark.parametrize(("script", "reason"), [("echo no bus >&2; exit 1", "no bus"), ("exit 3", "status 3")])
def test_systemd_that_does_not_read_the_drop_in_is_warned_of(machine: Machine, script: str, reason: str) -> None:
    machine.write_systemctl(script)
    with pytest.warns(HwsignerWarning, match=f"does not look every 90 s yet: {reason}") as seen:
        machine.set_pace(HOUR)
    assert len(seen) == 1
    assert machine.drop_in.exists()


def test_timer_of_a_profile_for_the_system_s_agent_is_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(pace, "_replace", lambda path, text: seen.append(path))
    monkeypatch.setattr(systemd, "_BOOTED", "/")
    pace.set_pace("web", SYSTEM_FILE, leaf(HOUR))
    assert seen == ["/etc/systemd/system/hwsigner-renew@web.timer.d/50-hwsigner.conf"]


def test_systemd_accepts_the_drop_in(machine: Machine) -> None:
    machine.set_pace(HOUR)
    units = machine.drop_in.parents[1]
    for unit in (Path(hwsigner.__file__).parent / "_units" / "user").glob("hwsigner-renew@*"):
        (units / unit.name).write_text(unit.read_text().replace("@program@", "/bin/true"))
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(machine.home), "XDG_CONFIG_HOME": str(machine.home)}
    command = ["systemd-analyze", "--user", "verify", "hwsigner-renew@web.timer"]
    done = subprocess.run(
        command, env={**environ, "XDG_RUNTIME_DIR": str(machine.home)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("minutes", "step"), [(10, 15), (30, 45), (60, 90), (599, 898.5), (600, None)])
def test_timer_looks_more_often_than_its_unit_says_if_the_life_is_short(minutes: int, step: float | None) -> None:
    assert pace.step_of_timer(minutes * 60) == step
