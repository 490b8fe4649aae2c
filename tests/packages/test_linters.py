"""Packages that their linter refuses: none is put where a later step or a person would take it as good."""

from __future__ import annotations

import subprocess
from pathlib import Path

import debian_packages
import pytest
import rpm_packages


def refuse(*command: str | Path) -> None:
    """Run nothing, and fail as a linter does."""
    if {"lintian", "rpmlint"} & set(command):
        raise subprocess.CalledProcessError(1, "lint")


def built(folder: Path, *names: str) -> Path:
    """Make what a build makes."""
    for name in names:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    return folder


def test_debian_packages_that_lintian_refuses_are_not_put_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_packages, "call", refuse)
    source = built(tmp_path / "root/build", "a.deb") / "source"
    (tmp_path / "out").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        debian_packages._build(tmp_path / "root", source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_rpms_that_rpmlint_refuses_are_not_put_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sources(_sdist: Path, root: Path, _kept: Path) -> Path:
        return built(root / "build", "SRPMS/a.src.rpm", "RPMS/x86_64/a.rpm")

    for name, instead in (("archive", print), ("unpack", print), ("_sources", sources), ("call", refuse)):
        monkeypatch.setattr(rpm_packages, name, instead)
    (tmp_path / "out").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        rpm_packages.main("sdist", str(tmp_path / "out"), str(tmp_path / "out"), "kept")
    assert list((tmp_path / "out").iterdir()) == []
