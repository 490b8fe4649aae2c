"""The trial of modules that hwsigner was not written with: of NSS, and of tpm2-pkcs11 with an emulated TPM."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from softhsm.tpm import SoftTPM
from softhsm.tpm2_pkcs11 import TPM2Token
from trial.token_trials import NOT_OF_EMPTY, ROOT, TrialRun

PIN = "73190264"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("hardware")]
# The user PIN of a new database is set by its SO, whose PIN is empty.
_SET_PIN = """
import ctypes, sys
from hwsigner.backends.pkcs11.functions import Functions
functions = Functions(sys.argv[1])
functions.initialise()
session, pin = functions.new_session(2, writing=True), sys.argv[2].encode()
assert functions.login(session, 0, b"", 0) == 0
set_pin = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong)(functions.addresses[10])
assert set_pin(session, pin, len(pin)) == 0
functions.finalise()
"""


def find_softokn() -> str:
    [path, *_] = glob.glob("/usr/lib/*/libsoftokn3.so") + glob.glob("/usr/lib*/libsoftokn3.so")
    return path


def new_database(folder: Path, pin: str) -> dict[str, str]:
    """Make a database of NSS, and return the variables for it. With an empty PIN, it wants no login."""
    folder.mkdir()
    values = {"NSS_LIB_PARAMS": f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="}
    command = [sys.executable, "-c", _SET_PIN, find_softokn(), pin]
    subprocess.run(command, env={**os.environ, **values, "PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    return values


@pytest.fixture
def database(tmp_path: Path) -> dict[str, str]:
    """The variables for a database of NSS with a PIN."""
    return new_database(tmp_path / "nss", PIN)


def test_trial_of_nss_finds_where_it_differs_and_leaves_nothing(database: dict[str, str], tmp_path: Path) -> None:
    flags = ("--yes", "--write", "NSS Certificate DB")
    run = TrialRun(find_softokn(), tmp_path, *flags, pin=PIN, **database).finish()
    assert run.differing == {
        "module.finalised": "CKR_OK",
        "keygen.attributes": "CKA_LOCAL is false, CKA_ALWAYS_AUTHENTICATE is not shown",
        "write.copy": "with other attributes",
    }, run.output
    assert "Nothing that it made is left on the token" in run.output
    assert run.not_asked == NOT_OF_EMPTY


def test_several_tokens_of_a_module_are_named_and_none_is_chosen(database: dict[str, str], tmp_path: Path) -> None:
    run = TrialRun(find_softokn(), tmp_path, "--yes", pin=PIN, **database).finish()
    assert "slot 1 ('NSS Generic Crypto Services'), slot 2 ('NSS Certificate DB')" in run.output
    assert (run.status, list(tmp_path.glob("trial-*"))) == (3, [])


def test_token_without_a_pin_is_written_on_without_a_login(tmp_path: Path) -> None:
    database = new_database(tmp_path / "nss", "")
    only = [flag for area in ("keygen", "sign", "login", "delete") for flag in ("--only", f"{area}.*")]
    run = TrialRun(find_softokn(), tmp_path, "--yes", "--write", "2", *only, pin=None, **database).finish()
    assert run.status in (0, 1), run.output
    assert run.answers["keygen.p256"] == "made", run.output
    assert run.answers["sign.ecdsa"] == "r and s, each as long as the order"
    assert run.answers["login.shared"] == "not asked: no PIN was given"
    assert run.answers["delete.all"] == "yes"


@pytest.fixture
def chip(short_folder: Path, tmp_path: Path, hardware: None) -> Iterator[TPM2Token]:
    with SoftTPM(short_folder) as tpm:
        token = TPM2Token(tmp_path / "store", tpm, "hushed-chip")
        token.make()
        token.generate("hushed-key", b"\x01", "EC:prime256v1")
        yield token


def test_trial_of_tpm2_pkcs11_reads_and_signs(chip: TPM2Token, tmp_path: Path) -> None:
    flags = ("--yes", "--sign-with", "hushed-key")
    run = TrialRun(chip.module, tmp_path, *flags, pin=chip.pin, **chip.env).finish()
    # A child's connection to the TPM is the parent's.
    assert run.differing.keys() <= {"fork.parent", "login.again"}, run.output
    assert run.answers["sign.ecdsa"] == "r and s, each as long as the order"
    assert "hushed" not in "".join(path.read_text() for path in tmp_path.glob("trial-*"))
