"""The systemd units: accepted without a warning, and sandboxed as far as an agent can be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
# systemd-analyze rates a system service from 0.0 (closed) to 10.0.
MOST_EXPOSED = 2.0


@pytest.fixture(params=["system", "user"])
def units(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of the system's units or of a user's, with the path of the program under test."""
    folder = tmp_path / str(request.param)
    folder.mkdir()
    for unit in (UNITS / folder.name).iterdir():
        text = unit.read_text().replace("/usr/bin/hwsigner", str(Path(sys.executable).with_name("hwsigner")))
        (folder / unit.name).write_text(text)
    return folder


def test_systemd_accepts_all_units(units: Path, tmp_path: Path) -> None:
    scope = ["--user"] if units.name == "user" else []
    done = subprocess.run(
        ["systemd-analyze", *scope, "verify", *sorted(units.iterdir())],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_system_service_is_sandboxed() -> None:
    service = UNITS / "system" / "hwsigner-agent.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", service], capture_output=True, text=True
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_secrets_are_neither_swapped_nor_dumped(units: Path) -> None:
    for unit in units.glob("*.service"):
        lines = unit.read_text().splitlines()
        assert {"LimitCORE=0", "MemorySwapMax=0", "NoNewPrivileges=yes", "UMask=0077", "Type=notify"} <= set(lines)
        # In a user namespace, the agent could not tell its clients' users apart.
        assert not [line for line in lines if line.startswith("PrivateUsers=")]


def test_system_s_agent_may_lock_all_of_its_memory() -> None:
    assert "LimitMEMLOCK=infinity" in (UNITS / "system" / "hwsigner-agent.service").read_text().splitlines()


def test_sockets_are_where_clients_look(units: Path) -> None:
    lines = (units / "hwsigner-agent.socket").read_text().splitlines()
    expected = {
        "system": {"ListenStream=/run/hwsigner/agent.sock", "SocketMode=0666", "DirectoryMode=0755"},
        "user": {"ListenStream=%t/hwsigner/agent.sock", "SocketMode=0600", "DirectoryMode=0700"},
    }
    assert expected[units.name] <= set(lines)
