"""Real clients. `make test-clients` installs and runs them; `make test` does not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from clients.clock import Clock, ClockedStage
from clients.outputs import OUTPUTS, Output, open_output
from clients.table import table
from hwsigner.emulator import Emulator, World
from serving.stage import Stage

OPTION = "--clients"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that says where the clients are. Without it, this folder is not collected."""
    parser.addoption(OPTION, type=Path, help="where make test-clients has installed the clients")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    return None if config.getoption(OPTION) else True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of docs/reference/clients.md."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    for line in table(reports):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def installed(request: pytest.FixtureRequest) -> Path:
    """The folder of the clients that are not Debian packages."""
    path: Path = request.config.getoption(OPTION)
    return path.absolute()


def _furnish(folder: Path) -> tuple[World, Path, Path]:
    """Make a home folder with a key; return a world that trusts the CA of its certificate, and the paths of both."""
    ca, key = certs.make_ca(), ec.generate_private_key(ec.SECP256R1())
    for name in ("run", "home"):
        (folder / name).mkdir(mode=0o700)
    leaf = folder / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key())))
    return World.simple(ca.certificate), leaf, certs.write_key(folder / "leaf.key", key)


@pytest.fixture(scope="session")
def shared_stage() -> Iterator[Stage]:
    """A home folder and a service for all tests of this process."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
        world, leaf, key = _furnish(Path(folder))
        with Emulator(world) as emulator:
            yield Stage(emulator, Path(folder), leaf, key)


@pytest.fixture
def stage(short_folder: Path) -> Iterator[Stage]:
    """A home folder and a service for one test."""
    world, leaf, key = _furnish(short_folder)
    with Emulator(world) as emulator:
        yield Stage(emulator, short_folder, leaf, key)


@pytest.fixture
def clock(short_folder: Path) -> Clock:
    """A clock that shows the present time until a test sets it."""
    return Clock(short_folder)


@pytest.fixture
def clocked_stage(short_folder: Path, clock: Clock) -> Iterator[ClockedStage]:
    """A home folder and a service whose programs use the clock."""
    world, leaf, key = _furnish(short_folder)
    with Emulator(world, clock=clock.now) as emulator:
        yield ClockedStage(emulator, short_folder, leaf, key, clock)


@pytest.fixture(scope="session", params=OUTPUTS)
def output(shared_stage: Stage, request: pytest.FixtureRequest) -> Iterator[Output]:
    """Each output in turn, with a role of its own."""
    with open_output(shared_stage, request.param) as output:
        yield output
