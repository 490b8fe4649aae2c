"""`hwsigner delete`: it names what would go, and deletes it only if the user agrees."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hwsigner.key.management import generate_key
from scene import Outcome
from terminals import Terminal

COMMAND = (sys.executable, "-m", "hwsigner", "delete")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key in a file."""
    path = tmp_path / "web.key"
    generate_key(str(path))
    return path


def test_yes_deletes_without_a_question(call: Callable[..., Outcome], key: Path) -> None:
    assert call("delete", key, "--yes") == Outcome(0, f"deleted the key in {key}\n", "")
    assert not key.exists()


def test_json_names_what_is_gone(call: Callable[..., Outcome], key: Path) -> None:
    outcome = call("delete", key, "--yes", "--json")
    assert json.loads(outcome.out) == {"deleted": [f"the key in {key}"]}


def test_without_a_terminal_it_needs_yes(key: Path) -> None:
    ran = subprocess.run([*COMMAND, key], input=b"yes\n", capture_output=True, start_new_session=True)
    assert (ran.returncode, ran.stdout, key.exists()) == (2, b"", True)
    message = "hwsigner: there is no terminal to ask, so nothing was deleted. Add --yes"
    assert ran.stderr.decode().startswith(message)


@pytest.mark.parametrize("typed", [b"yes\n", b" YES \n"])
def test_typed_yes_deletes(terminal: Terminal, key: Path, typed: bytes) -> None:
    process = terminal.start(*COMMAND, str(key))
    shown = terminal.shown_until("Type yes to delete it: ")
    assert f"  the key in {key}" in shown
    assert key.exists()
    terminal.type(typed)
    assert process.communicate(timeout=60) == (f"deleted the key in {key}\n".encode(), b"")
    assert (process.returncode, key.exists()) == (0, False)


@pytest.mark.slow
@pytest.mark.parametrize("typed", [b"y\n", b"\n", b"no\n", b"\x04"])
def test_any_other_answer_keeps_it(terminal: Terminal, key: Path, typed: bytes) -> None:
    process = terminal.start(*COMMAND, str(key))
    terminal.shown_until("Type yes to delete it: ")
    terminal.type(typed)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, key.exists()) == (1, b"", True)
    assert err.startswith(b"hwsigner: nothing was deleted")


@pytest.mark.parametrize(("typed", "status"), [(b"\x04", 1), (b"\x03", 130)])
def test_line_of_the_question_ends_when_it_is_not_answered(
    terminal: Terminal, key: Path, typed: bytes, status: int
) -> None:
    process = terminal.start(*COMMAND, str(key))
    terminal.shown_until("Type yes to delete it: ")
    terminal.type(typed)
    assert terminal.shown_until("\n").strip() in ("", "^C")
    process.communicate(timeout=60)
    assert (process.returncode, key.exists()) == (status, True)


def test_missing_key_is_an_error_before_the_question(call: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = call("delete", tmp_path / "none", "--yes")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (3, "", 1)
