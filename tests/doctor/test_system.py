"""What `doctor` does on a Mac and in WSL: it says what is lacking, and looks for nothing that only Linux has."""

from __future__ import annotations

import json
import platform
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from hwsigner._system import pcsc, support, systemd
from hwsigner._system.clocks import utc_now
from hwsigner.doctor import course
from hwsigner.emulator import Emulator, World
from pages import ROOT
from patients import Patient


@pytest.fixture
def wsl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = tmp_path / "osrelease"
    kernel.write_text("6.6.87.1-microsoft-standard-WSL2\n")
    monkeypatch.setattr(support, "_OSRELEASE", str(kernel))
    monkeypatch.setattr(systemd, "_BOOTED", str(tmp_path))


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(course, "HAS_SYSTEMD", False)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))


def shown(patient: Patient) -> str:
    outcome = patient.call("doctor", "--profile", "web")
    assert outcome.status == 0  # What a system lacks is no mistake.
    return " ".join(outcome.out.split())


def lacking(patient: Patient) -> list[str]:
    found: list[str] = json.loads(patient.call("doctor", "--json").out)["lacks"]
    return found


def test_linux_lacks_nothing(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_OSRELEASE", "/absent")
    assert lacking(patient) == []
    assert "lacks on this system" not in shown(patient)


@pytest.mark.usefixtures("mac")
def test_mac_lacks_what_the_list_says(patient: Patient) -> None:
    assert lacking(patient) == [*support.LACKS_OF_MACOS]
    assert f"lacks on this system, macOS 15.1 {platform.machine()}: {support.LACKS_OF_MACOS[0]}" in shown(patient)


@pytest.mark.usefixtures("wsl")
def test_wsl_lacks_what_the_list_says(patient: Patient) -> None:
    assert lacking(patient) == [*support.LACKS_OF_WSL]
    assert f"in WSL: {support.LACKS_OF_WSL[0]}" in shown(patient)


@pytest.mark.usefixtures("wsl")
def test_wsl_without_systemd_lacks_it(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_BOOTED", "/absent")
    assert lacking(patient)[-1].startswith("systemd does not run")


@pytest.mark.usefixtures("mac")
def test_mac_has_no_units_and_no_pcscd_to_look_for(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    patient.program("systemctl", "echo hwsigner-agent.service loaded failed failed")
    monkeypatch.setattr(pcsc, "_status", lambda: 0x8010006A)
    assert not pcsc.is_refused()
    assert "unit-failed" not in patient.names()


@pytest.mark.parametrize(("system", "words"), [("wsl", "hwclock --hctosys"), ("mac", "System Settings")])
def test_wrong_clock_is_set_as_the_system_does_it(
    system: str, words: str, patient: Patient, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(system)
    with Emulator(World.simple(patient.ca.certificate), clock=lambda: utc_now() + timedelta(minutes=10)) as emulator:
        patient.change({"endpoint": emulator.url})
        found = {each["id"]: each for each in patient.findings("--online")}
    assert words in found["clock-wrong"]["fix"]


@pytest.mark.usefixtures("wsl")
def test_report_says_that_it_is_wsl(patient: Patient) -> None:
    assert json.loads(patient.call("doctor", "--report", "-").out)["system"]["is_wsl"] is True


@pytest.mark.parametrize(
    ("page", "lines"), [("macos", support.LACKS_OF_MACOS), ("windows", support.LACKS_OF_WSL)], ids=["macos", "windows"]
)
def test_page_has_the_lines_of_doctor(page: str, lines: tuple[str, ...]) -> None:
    text = " ".join((ROOT / "docs" / "start" / f"{page}.md").read_text().split()).replace("`", "")
    assert [line for line in lines if line not in text] == []


@pytest.mark.parametrize("line", [*support.LACKS_OF_MACOS, *support.LACKS_OF_WSL])
def test_line_has_at_most_25_words(line: str) -> None:
    assert len(line.split()) <= 25
