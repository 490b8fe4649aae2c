"""What purging the package leaves of its folder in /etc."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cli.conftest import call, scene
from pages import ROOT
from scene import Scene

__all__ = ["call", "scene"]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A folder in place of /etc."""
    return tmp_path / "etc"


def purge(etc: Path) -> None:
    """Run the script of the package's purge, with a folder in place of /etc, and none of the system's."""
    script = (ROOT / "packaging/debian/hwsigner.postrm").read_text().replace("/etc/", f"{etc}/")
    for name in ("/run", "/var"):
        script = script.replace(f"{name}/", f"{etc}{name}/")
    subprocess.run(["sh", "-c", f"getent() {{ false; }}\n{script}", "postrm", "purge"], check=True)


def test_purge_leaves_nothing_of_a_profile_that_was_removed(
    scene: Scene, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(etc))
    assert scene.call("profile", "add", "web", *scene.flags(endpoint=None)).status == 0
    assert scene.call("profile", "remove", "web").status == 0
    purge(etc)
    assert not (etc / "hwsigner").exists()


def test_purge_keeps_a_profile(scene: Scene, etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(etc))
    assert scene.call("profile", "add", "web", *scene.flags(endpoint=None)).status == 0
    purge(etc)
    assert "[profile.web]" in (etc / "hwsigner" / "config.toml").read_text()
