"""What roots and libraries are kept for the next build: nothing that an interrupted run, or another Python, left."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import roots


def test_libraries_that_an_interrupted_run_left_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "root/pins.txt"
    folder = tmp_path / "root/libraries"
    folder.mkdir(parents=True)
    pins.write_text("a==1")
    left = tmp_path / f"libraries-{roots.digest(pins.read_text())}.new"
    left.mkdir()
    (left / "old.whl").touch()
    monkeypatch.setattr(roots, "call_thrice", lambda *_: (folder / "new.whl").touch())
    roots.download(tmp_path / "root", pins, folder, tmp_path / "libraries")
    assert [path.name for path in left.with_suffix("").iterdir()] == ["new.whl"]


def test_wheels_of_an_earlier_python_of_the_machine_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python3"
    monkeypatch.setattr(roots, "PYTHON", str(python))
    monkeypatch.setattr(roots, "call", lambda *_: None)
    monkeypatch.setattr(roots, "call_thrice", lambda *_: (tmp_path / "wheels.new").mkdir())

    def wheels(version: str) -> Path:
        python.write_text(f"#!/bin/sh\necho Python {version}\n")
        python.chmod(0o755)
        return roots.wheels(tmp_path, "machine")

    former = wheels("3.11.2")
    assert wheels("3.11.2") == former
    assert wheels("3.13.5") != former


def test_root_of_a_suite_that_left_the_mirror_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(*command: object) -> None:
        tries.append(command)
        raise subprocess.CalledProcessError(25, "mmdebstrap")

    monkeypatch.setattr(roots, "call", refuse)
    with pytest.raises(SystemExit, match=r"can't make a root of Debian's buster.*no longer has it"):
        roots.bootstrap("buster", tmp_path / "new", ())
    assert len(tries) == 3
