"""Running hwsigner as a process of its own, with a home folder and a service of the test's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from hwsigner.emulator import Emulator, Fault

PROGRAM = Path(sys.executable).parent / "hwsigner"


@dataclass
class Process:
    """A program that runs; what it wrote to stderr is read line by line."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_until(self, part: str) -> str:
        """Return the next line of stderr that has a part, as soon as it comes."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if part in line:
                return line.rstrip("\n")
        raise AssertionError(f"it ended without {part!r}: {self.lines}")

    def variables(self, *, until: str = "AUTHORIZATION_TOKEN_FILE") -> dict[str, str]:
        """Return the variables that it says to export, once it has said all."""
        self.read_until(until)
        exports = [line.removeprefix("export ") for line in self.lines if line.startswith("export ")]
        return dict(line.split("=", 1) for line in exports)

    def end(self, number: int) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        _, err = self.process.communicate(timeout=60)
        self.lines += err.splitlines()
        return self.process.returncode


@dataclass(frozen=True)
class Stage:
    """What a process needs to get credentials.

    Attributes:
        service: the emulator.
        folder: holds all.
        leaf: the certificate's path.
        key: its key's.
    """

    service: Emulator
    folder: Path
    leaf: Path
    key: Path

    def values(self) -> dict[str, Any]:
        """Return the values of a profile."""
        return {
            "certificate": str(self.leaf),
            "private-key": str(self.key),
            "trust-anchor-arn": self.service.trust_anchor_arn,
            "profile-arn": self.service.profile_arn,
            "role-arn": self.service.role_arn,
            "endpoint": self.service.url,
        }

    def flags(self) -> list[str]:
        return [f"--{name}={value}" for name, value in self.values().items()]

    def private_key(self) -> Any:
        """Return the key; it has the passphrase `first` if any."""
        data = self.key.read_bytes()
        return load_pem_private_key(data, b"first" if b"ENCRYPTED" in data else None)

    def encrypt_key(self, passphrase: str) -> None:
        """Give the key a passphrase, or another one than `first`."""
        encryption = BestAvailableEncryption(passphrase.encode())
        data = self.private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        new = self.key.with_suffix(".new")
        new.touch(0o600)
        new.write_bytes(data)
        new.replace(self.key)

    def shorten_sessions(self, count: int, *, seconds: int) -> datetime:
        """Let the next sessions end in some seconds from now, and return when."""
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
        self.service.misbehave(Fault.parse(f"bad-expiration*{count}:value={end:%Y-%m-%dT%H:%M:%SZ}"))
        return end

    @property
    def sessions(self) -> int:
        """How many sessions were asked for."""
        return sum(record.request.path.startswith("/sessions") for record in self.service.requests)

    @property
    def role(self) -> str:
        return self.service.role_arn.rpartition("/")[2]

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of a process."""
        home, runtime = str(self.folder / "home"), str(self.folder / "run")
        return {"PATH": "/usr/bin:/bin", "HOME": home, "XDG_RUNTIME_DIR": runtime, "LANG": "C.UTF-8", **more}

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run hwsigner to its end."""
        return subprocess.run(
            [PROGRAM, *arguments], env=environ or self.environ(), capture_output=True, text=True, timeout=60
        )

    @contextmanager
    def start(
        self, *arguments: str, wrapper: tuple[str, ...] = (), stdin: IO[Any] | int | None = None, **environ: str
    ) -> Iterator[Process]:
        """Start hwsigner, and end it with the block."""
        with subprocess.Popen(
            [*wrapper, str(PROGRAM), *arguments],
            env=self.environ(**environ),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Process(process)
            finally:
                process.kill()
