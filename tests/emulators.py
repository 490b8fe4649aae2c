"""Emulated hardware as pytest fixtures: one SoftHSM folder and one swtpm for each test process."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared_hardware import facts_of_tokens, facts_of_tpm, fail_if_changed, reset_lockout, watched
from softhsm.token import PIN, SoftHSM, find_module
from softhsm.tpm import SoftTPM

_CKR_CRYPTOKI_NOT_INITIALIZED = 0x190
_CKF_OS_LOCKING_OK = 0x2


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS (PKCS #11 3.1, 3.7)."""

    _fields_ = (
        ("callbacks", ctypes.c_void_p * 4),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class InProcessSoftHSM(SoftHSM):
    """A SoftHSM whose new tokens are visible to a module that this process has already initialised.

    SoftHSM lists its tokens only in C_Initialize, so adding one initialises the loaded module again. That closes every
    session: add tokens before opening keys.
    """

    def add_token(self, label: str, pin: str = PIN) -> None:
        super().add_token(label, pin)
        self.reload()

    def reload(self) -> None:
        """Finalise and initialise the module again, if this process has loaded and initialised it."""
        try:
            module = ctypes.CDLL(self.module, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            return
        if module.C_Finalize(None) == _CKR_CRYPTOKI_NOT_INITIALIZED:
            return
        result = module.C_Initialize(ctypes.byref(_InitializeArgs(flags=_CKF_OS_LOCKING_OK)))
        assert result == 0, f"C_Initialize answered {result:#x}"


@pytest.fixture(scope="session")
def hardware() -> None:
    """Allow emulated hardware to be started. Every fixture that starts it requests this one."""


def allow_hardware(allowed: bool) -> None:
    """Say whether the test that runs next may start emulated hardware. One that must not, and does, fails."""
    global _is_allowed
    _is_allowed = allowed


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Watch which programs the tests start: an audit hook, which sees those that our own code starts too."""
    if event != "subprocess.Popen" or _is_allowed:
        return
    command = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[1]]
    if any(EMULATOR.search(os.fsdecode(argument)) for argument in command):
        pytest.fail(f"{command} starts emulated hardware: request the fixture `hardware`, or one that requests it")


EMULATOR = re.compile(r"(^|/)(swtpm|pcscd|tpm2-abrmd)$|\bsofthsm")
_is_allowed = True
sys.addaudithook(_watch)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a Unix socket in it; that of tmp_path may not be."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def softhsm_module(hardware: None) -> str:
    """The path of SoftHSM's PKCS #11 module."""
    return find_module()


@pytest.fixture(scope="session")
def softhsm_folder(hardware: None) -> Iterator[Path]:
    """The folder of this process's SoftHSM. There is only one: the module reads SOFTHSM2_CONF once."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-softhsm-") as folder, pytest.MonkeyPatch.context() as patch:
        hsm = SoftHSM(Path(folder))
        hsm.make()
        patch.setenv("SOFTHSM2_CONF", str(hsm.conf))
        yield hsm.folder


@pytest.fixture(scope="module")
def softhsm(softhsm_folder: Path, request: pytest.FixtureRequest) -> Iterator[InProcessSoftHSM]:
    """The SoftHSM of this process, with only one token, which is new, for this test module."""
    hsm = InProcessSoftHSM(softhsm_folder)
    # No label may be a prefix of another: pkcs11-tool uses the first token whose label starts with the given one.
    hsm.add_token(Path(request.node.nodeid).stem.removeprefix("test_")[:28] + ".hsm")
    with watched(partial(facts_of_tokens, softhsm_folder)) as watch:
        yield hsm
    try:
        fail_if_changed(request.node.nodeid, watch)
    finally:
        for token in (softhsm_folder / "tokens").iterdir():
            shutil.rmtree(token)
        hsm.reload()


@pytest.fixture(scope="session")
def swtpm(hardware: None) -> Iterator[SoftTPM]:
    """A running TPM 2.0 without keys."""
    with (
        tempfile.TemporaryDirectory(prefix="hwsigner-tpm-") as folder,
        SoftTPM(Path(folder)) as tpm,
        watched(partial(facts_of_tpm, tpm)),
    ):
        yield tpm


@pytest.fixture
def any_auth_values(swtpm: SoftTPM) -> Iterator[None]:
    """For tests that send wrong auth values or change how many the TPM allows: it forgets both afterwards."""
    yield
    reset_lockout(swtpm)
