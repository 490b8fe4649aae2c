"""Pinned versions: a new release of a library changes nothing that is installed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from judges import needs_python_3_11
from pages import ROOT

pytestmark = pytest.mark.slow

_INSTALLS = ["Makefile", ".ci/*", "packaging/**/*", "tests/**/*", "docs/**/*", "*.md"]


def _wheel(folder: Path, name: str, version: str, *metadata: str) -> str:
    """Write a wheel without modules into a folder, and return the line that pins it by hash."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def _environment(folder: Path, version: str, pins: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/environment with these pins, which pip finds in the folder, and return what it printed and pip lists."""
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    (folder / "packaging" / "requirements").mkdir(parents=True)
    (folder / "packaging" / "requirements" / "dev.txt").write_text(pins)
    python = subprocess.run([ROOT / ".ci" / "find-python", version], check=True, capture_output=True, text=True).stdout
    environment = {"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "HOME": str(folder)}
    script = '.ci/environment venv "$1" dev && exec venv/bin/python -m pip list --format=freeze'
    command = ["bash", "-c", script, "bash", python.strip()]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


# The oldest pip of a supported Python that is at hand, and this Debian's.
@pytest.mark.parametrize("version", [pytest.param("3.11", marks=needs_python_3_11), ""])
def test_environment_has_what_is_pinned_when_a_library_of_an_extra_has_a_newer_release(
    version: str, tmp_path: Path
) -> None:
    pins = _wheel(tmp_path, "plugin", "1.0", "Requires-Dist: library[extra]>=1.0")
    pins += _wheel(tmp_path, "library", "1.0", "Provides-Extra: extra")
    _wheel(tmp_path, "library", "1.1", "Provides-Extra: extra")
    done = _environment(tmp_path, version, pins)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"plugin==1.0", "library==1.0"} <= set(done.stdout.split()), done.stdout


def test_environment_fails_when_the_pins_leave_out_a_library(tmp_path: Path) -> None:
    done = _environment(tmp_path, "", _wheel(tmp_path, "plugin", "1.0", "Requires-Dist: library"))
    assert done.returncode != 0
    assert "plugin 1.0 requires library, which is not installed" in done.stdout + done.stderr


def _lines(*patterns: str) -> list[tuple[Path, str, str]]:
    """Return the lines of all sources that fit, each with its path before it, and with its neighbours after it."""
    paths = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()} - {Path(__file__)}
    paths = {path for path in paths if path.suffix != ".pyc"}
    found = []
    for path in paths:
        lines = path.read_text(errors="replace").replace("\\\n", " ").splitlines()
        for number, line in enumerate(lines):
            found.append((path.relative_to(ROOT), line, "\n".join(lines[max(0, number - 1) : number + 2])))
    return found


def test_everything_that_builds_wheels_takes_what_builds_them_from_the_pins() -> None:
    """In isolation, pip takes the newest setuptools of the index, and no hash pins it."""
    places = [
        (path, line, "--no-build-isolation" in near or "$(THIS)" in near)
        for path, line, near in _lines("Makefile", ".ci/*", "packaging/*", "packaging/wheels/*", "tests/**/*.py")
        if re.search(r"^(?!#).*(pip\"?,? .*|PIP\) )\"?wheel\"?,? \"?-", line.strip())
    ]
    assert len(places) >= 6
    assert [place for *place, is_pinned in places if not is_pinned] == []


def test_everything_that_installs_pins_has_pip_look_for_no_dependencies() -> None:
    """An older pip takes the newest release for an extra, and then refuses it, as no hash pins it."""
    places = [
        (path, line, "--require-hashes" in near and "--no-deps" in near)
        for path, line, near in _lines(*_INSTALLS)
        if re.search(r"--require-hashes|.--requirement\b|pip.* -r ", line)
    ]
    assert len(places) >= 10
    assert [place for *place, is_pinned in places if not is_pinned] == []


def test_npm_says_why_it_fails() -> None:
    """With --silent it says nothing, not even that a file is gone or has another hash."""
    lines = [line for _, line, _ in _lines("Makefile", "packaging/pins") if re.search(r"\bnpm (ci|install) ", line)]
    assert len(lines) == 2
    assert [line for line in lines if "--loglevel=error" not in line or "--silent" in line] == []
