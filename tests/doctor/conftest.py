"""The sound set-up that each test makes one mistake in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import certs
from hwsigner._agent import client
from hwsigner._config import profiles
from hwsigner.doctor import machine
from hwsigner.emulator import Emulator
from patients import Patient
from scene import Outcome, call

__all__ = ["call"]


@pytest.fixture
def patient(
    ca: certs.Authority,
    shared_emulator: Emulator,
    tmp_path: Path,
    call: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Patient]:
    shared_emulator.clear_faults()
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc" / "config.toml"))
    monkeypatch.setattr(client, "SYSTEM_FOLDER", str(tmp_path / "system"))
    monkeypatch.setattr(machine, "UNIT_FOLDERS", ("~/units",))
    made = Patient(tmp_path, ca, shared_emulator, call)
    made.set_up()
    made.program("systemctl", "exit 1")
    yield made
    shared_emulator.clear_faults()
