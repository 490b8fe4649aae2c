"""The setting of a command's test: a CA, a leaf with its key in a file, and an emulator that trusts the CA."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import certs
from hwsigner._cli import main
from hwsigner.emulator import Emulator

# What runs credential_process: the client in C, where it was built.
PROGRAM = "hwsigner-credentials"
if not Path(sys.executable).with_name(PROGRAM).exists():
    PROGRAM = "hwsigner credential-process"


@dataclass(frozen=True)
class Outcome:
    """A command's exit status and output."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Scene:
    """All that a command needs to get credentials.

    Attributes:
        ca: the CA that the emulator trusts.
        emulator: the service.
        folder: a folder for files.
        leaf: the path of the leaf.
        key: the path of its key.
        call: a function that runs a command in this process.
    """

    ca: certs.Authority
    emulator: Emulator
    folder: Path
    leaf: Path
    key: Path
    call: Callable[..., Outcome]

    def credentials(self, *flags: str, **instead: str | Path | None) -> Outcome:
        """Run credential-process with the flags it needs and more. `instead` replaces flags; None drops one."""
        return self.call("credential-process", *self.flags(**instead), *flags)

    def flags(self, **instead: str | Path | None) -> list[str]:
        """Return the flags that credential-process needs."""
        emulator = self.emulator
        values: dict[str, Any] = {
            "certificate": self.leaf,
            "private_key": self.key,
            "trust_anchor_arn": emulator.trust_anchor_arn,
            "profile_arn": emulator.profile_arn,
            "role_arn": emulator.role_arn,
            "endpoint": emulator.url,
        }
        values |= instead
        return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]

    def write(self, name: str, data: bytes) -> Path:
        """Write a file that only its owner can read, and return its path."""
        path = self.folder / name
        path.touch(0o600)
        path.write_bytes(data)
        return path

    def issue(self, public_key: Any, shape: certs.Shape = certs.LEAF, name: str = "issued.pem") -> Path:
        """Write a certificate issued by the scene's CA, and return its path."""
        return self.write(name, certs.pem(certs.issue(self.ca, public_key, shape)))


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """A function that runs a command in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run
