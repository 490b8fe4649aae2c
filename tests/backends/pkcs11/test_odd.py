"""Modules and tokens that behave oddly, used by the commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.contract import ENVIRONMENT
from emulators import InProcessSoftHSM

ROOT = Path(__file__).parents[3]
ODD = Path(__file__).with_name("odd_module.c")
LOGIN_REQUIRED, COUNT_LOW, FINAL_TRY, LOCKED = "0x4", "0x10000", "0x20000", "0x40000"


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> InProcessSoftHSM:
    """A token with a readable key, and a key that the odd module makes unreadable."""
    softhsm.generate("P-256", b"\x01", "EC:prime256v1")
    softhsm.generate("unreadable", b"\x02", "EC:prime256v1")
    return softhsm


@pytest.fixture(scope="module")
def odd_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The odd module, compiled."""
    path = tmp_path_factory.mktemp("odd") / "odd.so"
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(path), str(ODD), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return path


@pytest.fixture
def command(hsm: InProcessSoftHSM, odd_module: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command on the odd module, in a process of its own."""

    def run(*arguments: str, **odd: str) -> subprocess.CompletedProcess[str]:
        settings = {f"ODD_{name.upper()}": value for name, value in odd.items()}
        home = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "ODD_MODULE": hsm.module}
        environment = {**ENVIRONMENT, **hsm.env, **home, **settings, "ODD_LOGINS": str(tmp_path / "logins")}
        program = [sys.executable, "-m", "hwsigner", *arguments, "--pkcs11-lib", str(odd_module)]
        return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_output_of_a_module_is_shown_only_with_debug(
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    quiet = command("list", chatter="WARNING: no config found")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert command("list", "--debug", chatter="WARNING: no config found").stderr == "WARNING: no config found\n"


def test_output_of_a_module_does_not_hide_the_error(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    failed = command("list", chatter="noise", module="/nonexistent.so")
    assert failed.returncode == 3
    assert failed.stderr.startswith("hwsigner: PKCS #11 module ")
    assert "noise" not in failed.stderr


def test_unreadable_object_does_not_hide_the_others(
    command: Callable[..., subprocess.CompletedProcess[str]], hsm: InProcessSoftHSM
) -> None:
    for name, found in (("P-256", True), ("unreadable", False)):
        key = f"pkcs11:token={hsm.label};object={name}?pin-value=1234"
        done = command("sign-string", "--private-key", key, unreadable="unreadable")
        assert (done.returncode == 0) is found, done.stderr
    assert f"no key is named by pkcs11:token={hsm.label};object=unreadable" in done.stderr


def test_token_is_logged_in_to_when_it_hides_its_keys_without_saying_so(
    command: Callable[..., subprocess.CompletedProcess[str]], hsm: InProcessSoftHSM, tmp_path: Path
) -> None:
    key = f"pkcs11:token={hsm.label};object=P-256?pin-value=1234"
    assert command("sign-string", "--private-key", key, clear=LOGIN_REQUIRED).returncode == 0
    assert (tmp_path / "logins").read_text() == "login\n"


@pytest.mark.parametrize(
    ("flags", "state"),
    [("0", "good"), (COUNT_LOW, "an earlier try failed"), (FINAL_TRY, "one try is left"), (LOCKED, "locked")],
)
def test_list_shows_the_state_of_the_pin_and_sends_none(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, flags: str, state: str
) -> None:
    listed = command("list", "--pkcs11-lib=x", **{"raise": flags}).stdout
    tokens = [line.split("\t") for line in listed.splitlines() if line.startswith("token\t")]
    assert {row[6] for row in tokens} == {state}
    assert not (tmp_path / "logins").exists()


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("objects", "a PKCS #11 module lists more than 65536 objects"),
        ("slots", "a PKCS #11 module lists more than 65536 slots"),
        ("lengths", "no key is named by"),
    ],
)
def test_module_that_lies_about_how_much_there_is_gets_an_error(
    command: Callable[..., subprocess.CompletedProcess[str]], hsm: InProcessSoftHSM, lie: str, message: str
) -> None:
    failed = command("show", f"pkcs11:token={hsm.label};object=P-256?pin-value=1234", lie=lie)
    assert (failed.returncode, failed.stdout) == (3, "")
    assert message in failed.stderr


def test_token_that_is_inserted_while_tokens_are_listed_is_no_error(
    command: Callable[..., subprocess.CompletedProcess[str]], hsm: InProcessSoftHSM
) -> None:
    done = command("show", f"pkcs11:token={hsm.label};object=P-256?pin-value=1234", lie="inserted")
    assert (done.returncode, done.stderr.count("PKCS #11 module")) == (0, 0)
