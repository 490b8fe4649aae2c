"""What the scripts of the Debian package do alone. `make test-deb` installs, upgrades and purges the packages."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pages import ROOT

CONFIGURED = pytest.mark.skipif(Path("/etc/hwsigner").exists(), reason="this machine has a configuration")
SCRIPTS = sorted((ROOT / "packaging" / "debian").glob("hwsigner.p*"))
POSTRM = ROOT / "packaging" / "debian" / "hwsigner.postrm"
DAEMON_SET = ROOT / "packaging" / "kubernetes" / "daemonset.yaml"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with all programs that a script finds: each writes down its name, and does nothing."""
    for name in ("find", "getent", "rm", "rmdir", "systemctl", "userdel"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/called\n")
        program.chmod(0o755)
    return tmp_path


def run(script: str, programs: Path, *arguments: str) -> list[str]:
    """Run a script that must succeed, and return what it called."""
    path = ROOT / "packaging" / "debian" / f"hwsigner.{script}"
    subprocess.run(["/bin/sh", path, *arguments], check=True, env={"PATH": str(programs)}, capture_output=True)
    called = programs / "called"
    return called.read_text().split() if called.exists() else []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.suffix)
def test_scripts_stop_at_the_first_error_and_have_the_helpers_commands(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert lines[:2] == ["#!/bin/sh", "set -e"]
    assert lines.count("#DEBHELPER#") == 1


def test_purge_deletes_the_folders_that_the_units_make_and_not_that_of_the_daemon_set() -> None:
    kinds = {"State": "/var/lib", "Logs": "/var/log", "Runtime": "/run"}
    units = "".join(unit.read_text() for unit in (ROOT / "hwsigner" / "_units" / "system").iterdir())
    made = re.findall(r"^(State|Logs|Runtime)Directory=([\w-]+)", units, re.MULTILINE)
    [words] = re.findall(r" rm -rf ((?:.+\\\n)*.+)", POSTRM.read_text())
    deleted = set(words.split()) - {"\\"}
    assert deleted == {f"{kinds[kind]}/{name}" for kind, name in made} | {"/run/hwsigner"}
    [state] = re.findall(r"hostPath: \{path: (/var/lib/\S+),", DAEMON_SET.read_text())
    assert state not in deleted


@CONFIGURED
def test_purge_deletes_the_users_of_the_units_when_no_configuration_is_left(programs: Path) -> None:
    lines = (ROOT / "hwsigner" / "_units" / "hwsigner.sysusers").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("u ")]
    (programs / "userdel").write_text(f"#!/bin/sh\necho $1 >>{programs}/deleted\n")
    run("postrm", programs, "purge")
    assert (programs / "deleted").read_text().split() == users


@CONFIGURED
@pytest.mark.parametrize("missing", [True, False])
def test_purge_succeeds_when_the_users_cannot_be_deleted(missing: bool, programs: Path) -> None:
    userdel = programs / "userdel"
    userdel.write_text("#!/bin/sh\necho 'userdel: user hwsigner is currently used by process 1' >&2; exit 8\n")
    if missing:
        userdel.unlink()
    assert run("postrm", programs, "purge")[-1] == "find"


@pytest.mark.parametrize("action", ["remove", "upgrade", "failed-upgrade", "abort-install", "disappear"])
def test_only_a_purge_deletes_anything(action: str, programs: Path) -> None:
    assert run("postrm", programs, action, "0.9.0-1") == []


def test_prerm_stops_nothing_in_an_upgrade(programs: Path) -> None:
    assert run("prerm", programs, "upgrade", "0.9.1-1") == []


def test_first_installation_starts_nothing(programs: Path) -> None:
    assert run("postinst", programs, "configure", "") == []
