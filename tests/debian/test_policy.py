"""The maintainer scripts ask policy-rc.d, in a mount namespace with a /run and a /usr/sbin of their own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pages import ROOT

pytestmark = pytest.mark.root

# Run a script with the policy of the first folder and the systemctl of the second.
RUN = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
mount --bind "$1" /usr/sbin
export PATH="$2:/usr/bin:/bin"
shift 2
exec sh "$@"
"""
# It lists two units that run, and writes down what else it is asked to do.
SYSTEMCTL = """#!/bin/sh
case "$1" in
    list-units) printf '%s loaded active running Credentials\\n' hwsigner-agent.service hwsigner-serve@web.service ;;
    *) echo "$@" >>"${0%/*}/called" ;;
esac
"""
# It forbids the units and actions of a pattern, such as "'hwsigner-agent.service stop'".
POLICY = """#!/bin/sh
case "$1 $2" in {forbidden}) exit 101 ;; esac
"""
UPGRADE = ("postinst", "configure", "0.8.0-1")
REMOVE = ("prerm", "remove")


def called(folder: Path, forbidden: str, script: str, *arguments: str) -> list[str]:
    """Return what a script has systemctl do, where a policy forbids this pattern."""
    sbin, programs = folder / "sbin", folder / "programs"
    for program, text in (
        (sbin / "policy-rc.d", POLICY.format(forbidden=forbidden)),
        (programs / "systemctl", SYSTEMCTL),
    ):
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(0o755)
    path = ROOT / "packaging" / "debian" / f"hwsigner.{script}"
    words: list[str | Path] = ["unshare", "--mount", "sh", "-c", RUN, "sh", sbin, programs, path, *arguments]
    subprocess.run(words, check=True, cwd=folder, capture_output=True)
    log = programs / "called"
    return log.read_text().splitlines() if log.exists() else []


def test_upgrade_restarts_what_runs(tmp_path: Path) -> None:
    restarts = ["try-restart hwsigner-agent.service", "try-restart hwsigner-serve@web.service"]
    assert called(tmp_path, "nothing", *UPGRADE) == ["daemon-reload", *restarts]


def test_upgrade_restarts_nothing_where_a_policy_forbids_it(tmp_path: Path) -> None:
    assert called(tmp_path, "*", *UPGRADE) == ["daemon-reload"]


def test_upgrade_restarts_what_a_policy_does_not_forbid(tmp_path: Path) -> None:
    restarts = ["try-restart hwsigner-serve@web.service"]
    assert called(tmp_path, "'hwsigner-agent.service try-restart'", *UPGRADE) == ["daemon-reload", *restarts]


@pytest.mark.parametrize(("forbidden", "calls"), [("nothing", 1), ("*' stop'", 0)])
def test_removal_stops_what_runs_unless_a_policy_forbids_it(forbidden: str, calls: int, tmp_path: Path) -> None:
    # No user is logged in, so nothing of a user is stopped: running.py tests that.
    stops = [line for line in called(tmp_path, forbidden, *REMOVE) if line.startswith("stop ")]
    assert len(stops) == calls
