"""Emulated YubiKeys as pytest fixtures: one pcscd for each test process, cards that tests insert."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from hwsigner._pins import sources as pin_sources
from hwsigner.backends.pkcs11 import module as pkcs11_module
from pkcs11_shim import forget_refusals
from shared_hardware import facts_of_readers, watched
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import FIRMWARE_5_4, YubiKey

_serials = itertools.count(10000001)


@pytest.fixture(scope="session", autouse=True)
def pcsc_folder() -> Iterator[Path]:
    """The folder for pcscd's socket. libpcsclite reads where it is only once in a process, at its first use."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-pcsc-") as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in SoftPcsc(Path(folder)).env.items():
            patch.setenv(name, value)
        yield Path(folder)


@pytest.fixture(scope="session")
def pcsc(hardware: None, pcsc_folder: Path) -> Iterator[SoftPcsc]:
    """A pcscd with two empty readers, used by this process and all that it starts."""
    daemon = SoftPcsc(pcsc_folder)
    daemon.start()
    try:
        with watched(partial(facts_of_readers, daemon)):
            yield daemon
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def new_yubikey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., YubiKey]]:
    """A function that makes cards with unique serial numbers. They are removed when the test module ends."""
    cards = []

    def make(firmware: tuple[int, int, int] = FIRMWARE_5_4) -> YubiKey:
        serial = next(_serials)
        cards.append(YubiKey(tmp_path_factory.mktemp("yubikey") / "card.json", serial, firmware))
        return cards[-1]

    yield make
    for card in cards:
        card.remove()


@pytest.fixture(scope="module")
def module_yubikey(pcsc: SoftPcsc, new_yubikey: Callable[[], YubiKey]) -> YubiKey:
    """The card of this test module, in the first reader."""
    card = new_yubikey()
    card.insert(pcsc)
    return card


@pytest.fixture
def yubikey(pcsc: SoftPcsc, module_yubikey: YubiKey) -> YubiKey:
    """The card of this test module in the first reader, after a factory reset."""
    module_yubikey.factory_reset()
    forget_cards()
    module_yubikey.insert(pcsc)
    return module_yubikey


def forget_cards() -> None:
    """Clear what this process has cached about cards: modules cache their contents, which tests change."""
    forget_refusals()
    pin_sources.forget()
    for module in pkcs11_module.modules.values():
        module.refresh_tokens()


def run(*arguments: str | Path, input: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that may fail, and return its output as text."""
    done = subprocess.run([*map(str, arguments)], env=os.environ, input=input, capture_output=True, timeout=60)
    texts = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


def succeed(*arguments: str | Path, input: bytes | None = None) -> str:
    """Run a program that must succeed, and return its output."""
    done = run(*arguments, input=input)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}: {output}"
    return output


def fail(*arguments: str | Path, input: bytes | None = None) -> str:
    """Run a program that must fail, and return its output."""
    done = run(*arguments, input=input)
    output = done.stdout + done.stderr
    assert done.returncode != 0, f"{' '.join(map(str, arguments))}: {output}"
    return output
