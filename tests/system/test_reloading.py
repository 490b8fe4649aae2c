"""Files that are read again: those of a Pod's volumes, and secret ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner._system.reloading import ReloadedFile, read_file
from hwsigner.errors import ConfigError, HwsignerError
from judges import needs_namespaces
from kubelet import Volume, read_only
from pages import ROOT

READ = "import sys; from hwsigner._system.reloading import read_file; print(read_file(sys.argv[1], private=True))"


def load(path: str) -> bytes:
    data = read_file(path)
    if data == b"bad":
        raise ConfigError("it is bad")
    return data


def test_file_of_a_config_map_is_read_again_after_each_rename(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "volume", {"policy": b"1"})
    errors: list[HwsignerError] = []
    file = ReloadedFile(str(volume.path / "policy"), load, errors.append)
    assert file.content() == b"1"
    for data, content in ((b"2", b"2"), (b"bad", b"2"), (b"3", b"3")):
        volume.update({"policy": data})
        assert [file.content(), file.content()] == [content, content]
    assert [error.message for error in errors] == ["it is bad"]


def test_files_that_are_replaced_while_they_are_read_are_no_error(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "volume", {"policy": b"1", "other": b"1"})
    errors: list[HwsignerError] = []
    swaps = [b"3"]

    def load_both(path: str) -> bytes:
        data = read_file(path)
        if data == b"2" and swaps:
            volume.update(dict.fromkeys(("policy", "other"), swaps.pop()))
        if read_file(other) != data:
            raise ConfigError("they differ")
        return data

    other = str(volume.path / "other")
    file = ReloadedFile(str(volume.path / "policy"), load_both, errors.append, others=[other])
    volume.update({"policy": b"2", "other": b"2"})
    assert [file.content(), file.content()] == [b"1", b"3"]
    assert errors == []


def read_in_mount(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Read a private file of a folder that is mounted read-only, in a namespace where this user may mount."""
    script = f'{read_only(folder, target)}; exec {sys.executable} -c "{READ}" {target}/keys'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script]
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)


@needs_namespaces
@pytest.mark.parametrize(("mode", "is_read"), [(0o400, True), (0o440, True), (0o444, False), (0o450, False)])
def test_private_file_may_be_a_secret_that_the_kubelet_gives_to_this_users_group(
    mode: int, is_read: bool, tmp_path: Path
) -> None:
    volume = Volume(tmp_path / "volume", {"keys": b"secret"}, mode=mode)
    done = read_in_mount(volume.path, tmp_path / "mount")
    assert (done.stdout == "b'secret'\n") == is_read, done.stderr
    assert is_read or f"has mode {mode:04o}: other users can read it" in done.stderr


def test_private_file_that_a_group_can_read_is_refused_on_a_file_system_that_is_not_read_only(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "volume", {"keys": b"secret"}, mode=0o440)
    with pytest.raises(ConfigError, match="other users can read it"):
        read_file(str(volume.path / "keys"), private=True)
