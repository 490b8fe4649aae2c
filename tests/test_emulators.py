"""How a test is known to use emulated hardware: `make check` runs the others."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_test_is_marked_hardware_when_it_requests_the_fixture(hardware: None, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("hardware")


def test_test_is_marked_hardware_when_one_of_its_fixtures_requests_it(
    softhsm_module: str, request: pytest.FixtureRequest
) -> None:
    assert request.node.get_closest_marker("hardware")


def test_test_is_not_marked_hardware_when_no_fixture_requests_it(request: pytest.FixtureRequest) -> None:
    assert not request.node.get_closest_marker("hardware")


@pytest.mark.parametrize("command", [["swtpm", "--version"], [sys.executable, "-m", "softhsm"], "/usr/sbin/pcscd"])
def test_test_fails_when_it_starts_hardware_without_the_fixture(command: str | list[str]) -> None:
    with pytest.raises(pytest.fail.Exception, match="request the fixture `hardware`"):
        subprocess.run(command)


def test_test_may_start_hardware_when_it_requests_the_fixture(hardware: None) -> None:
    assert subprocess.run(["swtpm", "--version"], capture_output=True).returncode == 0
