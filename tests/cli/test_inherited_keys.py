"""Each command that takes a key or certificate reads it from a variable, an open file or standard input too."""

from __future__ import annotations

import base64
import configparser
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwsigner.backends.file import inherited
from scene import Outcome, Scene
from terminals import Terminal

PROGRAM = Path(sys.executable).with_name("hwsigner")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/proc/none", "LANG": "C.UTF-8"}


@pytest.fixture(autouse=True)
def variable(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The variable WEB, with the scene's certificate and key as base64."""
    inherited.forget()
    monkeypatch.setenv("WEB", base64.b64encode(scene.leaf.read_bytes() + scene.key.read_bytes()).decode())
    yield
    inherited.forget()


def test_credential_process_reads_a_variable(scene: Scene) -> None:
    outcome = scene.credentials(certificate="env:WEB", private_key=None)
    assert (outcome.status, outcome.err) == (0, "")
    assert json.loads(outcome.out)["Version"] == 1


def test_update_reads_a_variable(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    file = scene.folder / "aws" / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    outcome = scene.call("update", "--once", *scene.flags(certificate="env:WEB", private_key=None))
    assert outcome.status == 0
    written = configparser.ConfigParser()
    written.read(file)
    assert written["default"]["aws_session_token"]


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("sign-string", ("--certificate", "env:WEB")),
        ("sign-string", ("--private-key", "env:WEB")),
        ("read-certificate-data", ("--certificate", "env:WEB")),
        ("csr", ("env:WEB", "--subject", "CN=web")),
    ],
)
def test_other_commands_read_a_variable(call: Callable[..., Outcome], command: str, flags: tuple[str, ...]) -> None:
    outcome = call(command, *flags)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out
    assert "WEB" not in os.environ


def test_show_and_doctor_know_a_key_in_a_variable(
    scene: Scene, call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = call("show", "env:WEB", "--certificate", "env:WEB", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    shown = json.loads(outcome.out)
    assert (shown["uri"], shown["properties"]["encrypted"]) == ("env:WEB", False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert call("profile", "add", "web", *scene.flags(certificate="env:WEB", private_key="env:WEB")).status == 0
    outcome = call("doctor", "--profile", "web", "--json")
    ids = {one["id"] for one in json.loads(outcome.out)["findings"]}
    assert not {"key-unusable", "certificate-unreadable", "key-mismatch"} & ids


@pytest.mark.parametrize("command", [("keygen", "env:WEB"), ("keygen", "-"), ("delete", "env:WEB", "--yes")])
def test_keys_in_variables_and_open_files_are_not_made_or_deleted(
    call: Callable[..., Outcome], command: tuple[str, ...]
) -> None:
    outcome = call(*command)
    assert (outcome.status, outcome.out) == (2, "")
    assert "keys can't be " in outcome.err


@pytest.mark.parametrize("redirection", ["<both", "< <(cat both)", "7<both", "7< <(cat both)"])
def test_sign_string_reads_standard_input_and_open_files(scene: Scene, redirection: str) -> None:
    scene.write("both", scene.leaf.read_bytes() + scene.key.read_bytes())
    place = "fd:7" if redirection.startswith("7") else "-"
    command = f"{PROGRAM} sign-string --private-key {place} --certificate {place} {redirection}"
    done = subprocess.run(["bash", "-c", command], cwd=scene.folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_certificate_to_install_may_come_by_standard_input(scene: Scene) -> None:
    command = f"{PROGRAM} install-certificate - {scene.key} < {scene.leaf}"
    done = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (scene.folder / "leaf.crt").exists()


def test_terminal_in_place_of_a_key_is_refused(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        command = f"exec {PROGRAM} sign-string --private-key - </dev/tty 2>&1"
        with terminal.start("sh", "-c", command, **ENVIRONMENT) as process:
            output = process.communicate(timeout=60)[0]
    finally:
        terminal.close()
    assert process.returncode == 3
    assert output == b"hwsigner: standard input is a terminal. Pipe the key or certificate in, or name a file\n"


def test_key_in_place_of_its_name_is_not_shown(scene: Scene) -> None:
    for name in ("certificate", "private_key", "intermediates"):
        for value in (os.environ["WEB"], scene.key.read_text(), f"env:{scene.key.read_text()}"):
            outcome = scene.credentials(**{name: value})
            assert (outcome.status, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
            assert value[40:60] not in outcome.err


def test_key_in_a_file_imports_nothing_for_variables(scene: Scene) -> None:
    code = "import sys; from hwsigner._cli import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, "sign-string", *scene.flags()[:2]]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "hwsigner.backends.file" in modules
    assert not {"hwsigner.backends.file.inherited", "ctypes"} & set(modules)
