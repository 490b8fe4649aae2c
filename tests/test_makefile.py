"""What the Makefile's targets need of a machine that has just been installed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from pages import ROOT

RULES = dict(re.findall(r"^(\S+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE))
SCRIPT = re.compile(r"\b(?:packaging|tests)/[\w/]+(?:\.py)?")


def unpacks_roots(script: Path) -> bool:
    """Return whether a script makes roots in a temporary folder."""
    text = script.read_text() if script.is_file() else ""
    return ("from roots import" in text and "TemporaryDirectory(" in text) or "/roots" in text.partition("mktemp -d")[2]


UNPACKING = [
    target for target, recipe in RULES.items() if any(unpacks_roots(ROOT / name) for name in SCRIPT.findall(recipe))
]


def tmpdirs(target: str, shell: Path, **variables: str) -> set[str]:
    """Return TMPDIR in the commands that make would run for a target. None of them is run."""
    shell.write_text('#!/bin/sh\necho "TMPDIR=$TMPDIR"\n')
    shell.chmod(0o755)
    command = ["make", "--silent", "--always-make", f"SHELL={shell}", target]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **variables}, check=True, capture_output=True, text=True
    )
    return set(re.findall(r"^TMPDIR=(.*)$", done.stdout, re.MULTILINE))


def test_trial_of_a_token_on_a_mac_installs_no_package_and_needs_no_compiler(tmp_path: Path) -> None:
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)
    command = ["make", "--dry-run", "--always-make", "trial-token", "MODULE=a.dylib"]
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True)
    assert ".ci/packages" not in done.stdout
    assert "--editable" not in done.stdout
    assert "--require-hashes --no-deps --only-binary :all: --requirement packaging/requirements/base.txt" in done.stdout
    assert done.stdout.endswith(".venv-trial/bin/python -m hwsigner.trial token a.dylib \n")


def test_trial_of_aws_installs_no_package_and_needs_no_compiler() -> None:
    command = ["make", "--dry-run", "--always-make", "trial-aws", "ARGS=--list"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True, text=True)
    assert ".ci/packages" not in done.stdout
    assert "--editable" not in done.stdout
    assert (
        "--require-hashes --no-deps --only-binary :all: --requirement packaging/requirements/trial.txt" in done.stdout
    )
    assert done.stdout.endswith("PYTHONPATH=tests .venv-trial-aws/bin/python -m trial_aws --list\n")


def test_targets_that_unpack_roots_are_found() -> None:
    assert {"deb", "test-deb", "rpm", "test-rpm", "test-machine", "release"} <= set(UNPACKING)


@pytest.mark.parametrize("target", UNPACKING)
def test_roots_are_not_unpacked_into_tmp_unless_the_caller_says_so(target: str, tmp_path: Path) -> None:
    assert tmpdirs(target, tmp_path / "shell") == {"/var/tmp"}
    assert tmpdirs(target, tmp_path / "shell", TMPDIR="/tmp") == {"/tmp"}


@pytest.mark.parametrize("target", ["deb", "rpm", "image"])
def test_packages_and_images_have_the_date_of_the_last_commit(target: str) -> None:
    assert "$(DATED)" in RULES[target]


@pytest.mark.parametrize("is_in_repository", [False, True])
def test_packages_built_from_the_source_distribution_have_its_date(tmp_path: Path, is_in_repository: bool) -> None:
    if is_in_repository:  # Of another project, whose commits have dates of their own.
        commit = ["-c", "user.name=jo", "-c", "user.email=jo@example.org", "commit", "-q", "--allow-empty", "-m", "x"]
        for arguments in (["init", "-q"], commit):
            subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    folder = tmp_path / "hwsigner-0.9.0"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    os.utime(folder / "pyproject.toml", (1_000_000_000, 1_000_000_000))
    done = run_dated(folder)
    assert (done.stderr, "SOURCE_DATE_EPOCH=1000000000" in done.stdout.splitlines()) == ("", True)


def test_date_of_a_repository_that_git_can_t_read_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").touch()
    done = run_dated(tmp_path)
    assert done.stderr.startswith("fatal: not a git repository")
    assert "SOURCE_DATE_EPOCH=" in done.stdout.splitlines()


def run_dated(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run env as the Makefile runs what needs the date of the sources."""
    command = ["make", "--silent", f"--file={ROOT / 'Makefile'}", "--eval=date: ; @$(DATED) env", "date"]
    return subprocess.run(
        command, cwd=folder, env={"PATH": "/usr/bin:/bin", "HOME": "/"}, capture_output=True, text=True
    )


def test_contributors_page_has_each_target() -> None:
    targets = re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in targets if not re.search(rf"`make {target}\b(?!-)", page)] == ["help"]


@pytest.mark.parametrize("target", [target for target, recipe in RULES.items() if '"$(PYTHON)"' in recipe])
def test_environment_has_the_headers_without_which_no_python_is_found(target: str) -> None:
    text = (ROOT / "Makefile").read_text()
    rule = re.search(rf"^{re.escape(target)}:.*\n(?:\t.*\n)+", text, re.MULTILINE)
    assert rule
    # The targets `packages` and `demo-packages` install DEMO_PACKAGES.
    listed = rule[0] + (text if re.search(r"\| (demo-)?packages$", rule[0], re.MULTILINE) else "")
    assert "python3-dev" in listed
