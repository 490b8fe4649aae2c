"""A user who may not read SoftHSM's files is told which group to join."""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulators import InProcessSoftHSM
from hwsigner.backends.pkcs11 import paths
from judges import needs_linux

ROOT = Path(__file__).parents[3]
IS_ROOT = os.geteuid() == 0
# Root may read everything, so another user lists. A first run imports every module, as that user may not read them.
LIST = f"""
import grp, os, pathlib, pwd, sys, hwsigner._cli, hwsigner._cli.list, hwsigner.backends.pkcs11, asn1crypto.keys
stderr, sys.stderr = sys.stderr, open(os.devnull, "w")
hwsigner._cli.main(["list", "pkcs11:?module-path=" + os.devnull])
sys.stderr = stderr
if {IS_ROOT}:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(hwsigner._cli.main(["list", "pkcs11:?module-path=" + sys.argv[1]]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike those of tmp_path, and on macOS the user's own TMPDIR."""
    made = Path(tempfile.mkdtemp(prefix="hwsigner-access-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def config(folder: Path) -> Path:
    """A configuration of SoftHSM, with a folder for tokens."""
    (folder / "tokens").mkdir(mode=0o755)
    file = folder / "softhsm2.conf"
    file.write_text(f"objectstore.backend = file\ndirectories.tokendir = {folder}/tokens\n")
    return file


def forbid(path: Path) -> str:
    """Let only a group read a file or folder, and not the user who lists. Return the group's name."""
    group = grp.getgrnam("daemon") if IS_ROOT else grp.getgrgid(os.getegid())
    os.chown(path, -1, group.gr_gid)
    path.chmod(0o750 if IS_ROOT else 0o050)
    return group.gr_name


def listing(softhsm: InProcessSoftHSM, config: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(config.parent), "SOFTHSM2_CONF": str(config)}
    command = [sys.executable, "-c", LIST, softhsm.module]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["softhsm2.conf", "tokens"])
def test_list_names_the_group_to_join(softhsm: InProcessSoftHSM, config: Path, name: str) -> None:
    path = config.parent / name
    group = forbid(path)
    done = listing(softhsm, config)
    path.chmod(0o755)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert "can't be used: the module reports a general error" in done.stderr
    assert f"Join the group {group}, which may read {path}, and log in again" in done.stderr


def test_list_names_no_group_when_none_would_help(softhsm: InProcessSoftHSM, config: Path) -> None:
    config.chmod(0o000)
    if IS_ROOT:
        os.chown(config, 0, 0)
    done = listing(softhsm, config)
    assert done.returncode == 3
    assert f"Check SOFTHSM2_CONF ({config}), and that you may read what it names" in done.stderr


def test_files_of_other_modules_are_not_known(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    assert paths.access_hint("/usr/lib/opensc-pkcs11.so", "otherwise") == "otherwise"
    assert "SOFTHSM2_CONF" in paths.access_hint("/usr/lib/softhsm/libsofthsm2.so", "otherwise")


@needs_linux
def test_first_configuration_that_can_be_read_names_the_tokens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOFTHSM2_CONF", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    file = folder / ".config" / "softhsm2" / "softhsm2.conf"
    file.parent.mkdir(parents=True)
    for text, tokens in (
        ("  directories.tokendir=/a b \n", "/a b"),
        ("log.level = ERROR\n", "/var/lib/softhsm/tokens"),
    ):
        file.write_text(text)
        assert list(paths._softhsm_files()) == [str(file), tokens]
