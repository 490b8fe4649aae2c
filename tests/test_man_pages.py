"""The man pages: judged by groff and mandoc, and complete."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest

from hwsigner._cli import COMMANDS, command_parser
from pages import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages, as `make man` writes them."""
    path = tmp_path_factory.mktemp("man")
    for name, content in runpy.run_path(str(ROOT / "packaging" / "man_pages.py"))["pages"]():
        (path / name).write_text(content, "ascii")
    return path


def shown(path: Path) -> str:
    """Return a page as `man` shows it in a terminal of 80 columns."""
    env = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"}
    done = subprocess.run(["man", "--warnings", "-l", path], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_hwsigner_and_every_command_have_a_page(folder: Path) -> None:
    names = {"hwsigner", "hwsigner-credentials", *(f"hwsigner-{name.replace(' ', '-')}" for name in COMMANDS)}
    assert {path.stem for path in folder.iterdir()} == names


def test_mandoc_finds_nothing_to_warn_of(folder: Path) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *folder.iterdir()], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_groff_finds_nothing_to_warn_of(folder: Path) -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", *folder.iterdir()], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["credential-process", "profile", "exec", "emulator"])
def test_page_of_a_command_has_its_flags_and_fits_80_columns(name: str, folder: Path) -> None:
    text = shown(folder / f"hwsigner-{name}.1")
    for flag in command_parser(name)[1].flags:
        assert re.search(rf"^ +--{flag.name}\b", text, re.MULTILINE)
    assert f"hwsigner-{name} - " in text
    assert "EXAMPLE" in text
    assert [line for line in text.splitlines() if len(line) > 87] == []  # An example is indented by 7.


def test_first_page_names_every_command_and_exit_status(folder: Path) -> None:
    text = shown(folder / "hwsigner.1")
    for name in COMMANDS:
        assert re.search(rf"^ +{name}\b", text, re.MULTILINE)
    section = (ROOT / "docs" / "reference" / "errors.md").read_text()
    for status in re.findall(r"^\| (\d+) \|", section, re.MULTILINE):
        assert re.search(rf"^ +{status} ", text, re.MULTILINE)


def test_text_of_a_page_is_shown_as_it_is(folder: Path) -> None:
    assert f"{command_parser('exec')[1].usage}\n" in shown(folder / "hwsigner-exec.1")
    text = shown(folder / "hwsigner-list.1")
    assert "hwsigner list 'pkcs11:token=web' --login" in text
    assert "Key=x509Subject,Value=… or file://…" in " ".join(shown(folder / "hwsigner-show.1").split())


def test_date_is_that_of_the_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    made = dict(runpy.run_path(str(ROOT / "packaging" / "man_pages.py"))["pages"]())
    assert made["hwsigner-exec.1"].startswith(".TH HWSIGNER\\-EXEC 1 1970-01-02 ")
