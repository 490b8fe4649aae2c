"""Folders that are mounted read-only, and those that are on something mounted so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner._system.mounts import is_read_only_mount
from judges import needs_namespaces
from pages import ROOT

LOOK = "import sys; from hwsigner._system.mounts import is_read_only_mount; print(is_read_only_mount(sys.argv[1]))"


def look(mount: str, folder: Path) -> bool:
    """Return what is said of a folder after a mount, in a namespace where this user may mount."""
    script = f'{mount}; exec {sys.executable} -B -c "$LOOK" "$FOLDER"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script],
        cwd=ROOT,
        env={**os.environ, "LOOK": LOOK, "FOLDER": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout in ("True\n", "False\n"), done.stderr
    return done.stdout == "True\n"


def remounted(folder: Path) -> str:
    return f'mount --bind "{folder}" "{folder}"; mount -o remount,bind,ro "{folder}"'


@needs_namespaces
@pytest.mark.parametrize("name", ["volume", "a volume", "back\\slash"])
def test_folder_that_is_mounted_read_only_is_known(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert look(remounted(folder), folder)
    assert not look(f'mount --bind "{folder}" "{folder}"', folder)


@needs_namespaces
def test_folder_below_a_read_only_mount_is_none(tmp_path: Path) -> None:
    """As systemd's ProtectSystem=strict does."""
    folder = tmp_path / "etc" / "roots"
    folder.mkdir(parents=True)
    assert not look(remounted(tmp_path), folder)
    assert not look(remounted(folder), folder.parent)


@needs_namespaces
def test_tmpfs_that_is_read_only_is_known(tmp_path: Path) -> None:
    assert look(f'mount -t tmpfs -o ro tmpfs "{tmp_path}"', tmp_path)


def test_ordinary_folder_is_no_read_only_mount(tmp_path: Path) -> None:
    assert not is_read_only_mount(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        is_read_only_mount(str(tmp_path / "absent"))
