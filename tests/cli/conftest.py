"""Fixtures for the tests of commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from enrolments import Enrolment
from hwsigner._config import profiles
from hwsigner.emulator import Emulator
from scene import Outcome, Scene, call
from softhsm.command import run as run_tool
from softhsm.tpm import SoftTPM

__all__ = ["call"]


@pytest.fixture
def scene(
    ca: certs.Authority, shared_emulator: Emulator, tmp_path: Path, call: Callable[..., Outcome]
) -> Iterator[Scene]:
    """A scene with a P-256 key. The emulator has no faults and no requests."""
    shared_emulator.clear_faults()
    shared_emulator.requests.clear()
    shared_emulator.world.profiles[shared_emulator.profile_arn].accept_role_session_name = False
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key())))
    yield Scene(ca, shared_emulator, tmp_path, leaf, certs.write_key(tmp_path / "leaf.key", key), call)
    shared_emulator.clear_faults()


@pytest.fixture
def user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's config.toml. It does not exist, and neither does the system's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc" / "config.toml"))
    return tmp_path / "xdg" / "hwsigner" / "config.toml"


@pytest.fixture
def cleaned_tpm(swtpm: SoftTPM) -> Iterator[SoftTPM]:
    """A TPM from which all sessions, persistent keys and NV indices of the owner that a test has left are removed."""
    before = _left(swtpm)
    yield swtpm
    run_tool(["tpm2_flushcontext", "-l"], swtpm.env)
    for command, place in _left(swtpm) - before:
        run_tool([command, "-Q", "-C", "o", *(["-c"] if command == "tpm2_evictcontrol" else []), place], swtpm.env)


def _left(swtpm: SoftTPM) -> set[tuple[str, str]]:
    """Return the handles of a TPM's persistent keys and NV indices, each with the command that removes it."""
    kinds = {"tpm2_evictcontrol": "handles-persistent", "tpm2_nvundefine": "handles-nv-index"}
    listed = {command: run_tool(["tpm2_getcap", kind], swtpm.env).decode() for command, kind in kinds.items()}
    return {(command, handle) for command, text in listed.items() for handle in re.findall(r"0x[0-9A-Fa-f]+", text)}


@pytest.fixture
def enrolment(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enrolment:
    home = tmp_path / "home"
    (home / "keys").mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "aws" / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc" / "config.toml"))
    (home / "ca.pem").write_bytes(scene.ca.pem)
    certs.write_key(home / "ca.key", scene.ca.key)
    return Enrolment(scene, home, str(home / "keys" / "web.key"))
