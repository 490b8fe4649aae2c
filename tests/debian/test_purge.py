"""What a purge of the Debian package leaves, in a mount namespace with an /etc, a /var and a /run of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pages import ROOT

pytestmark = pytest.mark.root

# Nothing runs if a folder of this machine is still there.
PURGE = """
set -e
mount --bind "$1" /etc
mount -t tmpfs tmpfs /var
mount -t tmpfs tmpfs /run
mkdir /var/lib /var/log
exec sh -s purge
"""
UID = 64999


def purge(etc: Path) -> None:
    """Run the maintainer script, with this folder as /etc."""
    for name in ("passwd", "group", "login.defs", "nsswitch.conf"):
        shutil.copy(f"/etc/{name}", etc)
    with (etc / "passwd").open("a") as users, (etc / "group").open("a") as groups:
        users.write(f"hwsigner:x:{UID}:{UID}::/:/usr/sbin/nologin\n")
        groups.write(f"hwsigner:x:{UID}:\n")
    # The sources may be below /var, which is hidden there.
    script = (ROOT / "packaging" / "debian" / "hwsigner.postrm").read_bytes()
    subprocess.run(["unshare", "--mount", "sh", "-c", PURGE, "sh", etc], check=True, capture_output=True, input=script)


def test_purge_deletes_the_user_when_nothing_belongs_to_it(tmp_path: Path) -> None:
    (tmp_path / "hwsigner").mkdir()
    purge(tmp_path)
    assert not (tmp_path / "hwsigner").exists()
    assert "hwsigner" not in (tmp_path / "passwd").read_text() + (tmp_path / "group").read_text()


def test_purge_deletes_lock_files(tmp_path: Path) -> None:
    (tmp_path / "hwsigner").mkdir()
    for name in (".web.hwsigner-enroll", ".hwsigner-renew", ".config.toml.hwsigner-lock"):
        (tmp_path / "hwsigner" / name).touch()
    purge(tmp_path)
    assert not (tmp_path / "hwsigner").exists()


@pytest.mark.parametrize("text", ["", "\n"])
def test_purge_deletes_config_toml_that_retire_left_empty(text: str, tmp_path: Path) -> None:
    (tmp_path / "hwsigner").mkdir()
    (tmp_path / "hwsigner" / "config.toml").write_text(text)
    purge(tmp_path)
    assert not (tmp_path / "hwsigner").exists()
    assert "\nhwsigner:" not in (tmp_path / "passwd").read_text()


def test_purge_leaves_a_profile(tmp_path: Path) -> None:
    (tmp_path / "hwsigner").mkdir()
    (tmp_path / "hwsigner" / "config.toml").write_text("[profile.web]\n")
    purge(tmp_path)
    assert (tmp_path / "hwsigner" / "config.toml").exists()


@pytest.mark.parametrize(("uid", "gid"), [(UID, 0), (0, UID)])
@pytest.mark.parametrize("folder", ["hwsigner", "pki"])
def test_purge_leaves_the_user_while_a_key_belongs_to_it(uid: int, gid: int, folder: str, tmp_path: Path) -> None:
    key = tmp_path / folder / "web.tss2"
    key.parent.mkdir()
    key.touch()
    os.chown(key, uid, gid)
    purge(tmp_path)
    assert key.exists()
    for file in ("passwd", "group"):
        assert "\nhwsigner:" in (tmp_path / file).read_text()


def test_purge_deletes_hwsigner_s_drop_ins_of_timers_and_not_the_administrator_s(tmp_path: Path) -> None:
    for name, files in {"web": ["50-hwsigner.conf"], "db": ["50-hwsigner.conf", "override.conf"]}.items():
        folder = tmp_path / f"systemd/system/hwsigner-renew@{name}.timer.d"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
    purge(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("systemd/system/**/*"))
    kept = "systemd/system/hwsigner-renew@db.timer.d"
    assert left == [kept, f"{kept}/override.conf"]


def test_purge_deletes_the_links_to_the_package_s_units_and_not_those_to_the_administrator_s(tmp_path: Path) -> None:
    wants = tmp_path / "systemd/system/timers.target.wants"
    wants.mkdir(parents=True)
    (tmp_path / "systemd/system/hwsigner-own@.timer").touch()
    (wants / "hwsigner-own@web.timer").symlink_to("/etc/systemd/system/hwsigner-own@.timer")
    (wants / "hwsigner-renew@web.timer").symlink_to("/usr/lib/systemd/system/hwsigner-renew@.timer")
    purge(tmp_path)
    assert [path.name for path in wants.iterdir()] == ["hwsigner-own@web.timer"]
