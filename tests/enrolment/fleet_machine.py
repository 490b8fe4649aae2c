"""A machine of a fleet: a TPM and a home folder of its own, in which hwsigner runs as a process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from softhsm.tpm import SoftTPM

PROFILE = "web"
KILLED = -9
# What a run may end with while processes are killed: the TPM is gone, a refusal for now, nothing answers.
PASSING = frozenset({KILLED, 3, 5, 6})


@dataclass
class Machine:
    """A machine.

    Attributes:
        name: its name in the policy, and the CN of its subject.
        home: its home folder.
        tpm: its TPM.
        statuses: how often its runs ended with which status.
        power_cuts: how often its TPM was killed.
    """

    name: str
    home: Path
    tpm: SoftTPM
    statuses: Counter[int] = field(default_factory=Counter)
    power_cuts: int = 0
    _process: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def subject(self) -> str:
        return f"CN={self.name},OU=fleet"

    @property
    def dns(self) -> str:
        return f"{self.name}.example.com"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def key(self) -> str:
        return f"tpm2:path={self.keys / 'web.tss2'}"

    @property
    def next_key(self) -> str:
        return f"tpm2:path={self.keys / 'next.tss2'}"

    def profile(self) -> dict[str, Any]:
        """Return what config.toml has: a half-written one can't be read."""
        found: dict[str, Any] = tomllib.loads((self.home / ".config/hwsigner/config.toml").read_text())
        return dict(found["profile"][PROFILE])

    def certificates(self) -> list[x509.Certificate]:
        """Return all that the file has that the profile names."""
        return x509.load_pem_x509_certificates(Path(self.profile()["certificate"]).read_bytes())

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command. Return its exit status, stdout and stderr."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        command = [sys.executable, "-m", "hwsigner", *arguments]
        pipe = subprocess.PIPE
        with self._lock:  # Not while the power is off.
            process = self._process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        with process:
            out, err = process.communicate()
        self.statuses[process.returncode] += 1
        return process.returncode, out, err

    def keep_trying(self, deadline: float, *arguments: str) -> None:
        """Run a command until it succeeds. Each failure must be one line with a status that passes."""
        while True:
            status, _, err = self.run(*arguments)
            if status == 0:
                return
            assert status in PASSING, (self.name, status, err)
            assert status == KILLED or (err.startswith("hwsigner: ") and err.count("\n") == 1), (self.name, err)
            assert time.monotonic() < deadline, f"{self.name} does not get through: {err}"
            time.sleep(0.2)

    def strike(self, chance: random.Random) -> None:
        """Kill the command that runs, if one does; sometimes the power of the TPM is cut too."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return
            self._process.kill()
            if chance.random() < 0.3:
                self.power_cuts += 1
                self.tpm.cut_power()

    def credentials(self) -> dict[str, Any]:
        """Return what the SDKs get by the profile."""
        status, out, err = self.run("credential-process", "--profile", PROFILE)
        assert (status, err) == (0, ""), (self.name, err)
        return dict(json.loads(out))

    def public_keys(self) -> dict[str, bytes]:
        """Return the public key of each key file, as OpenSSL reads it with the TPM: DER, by path."""
        return {str(path): self.tpm.public_key(path) for path in sorted(self.keys.glob("*.tss2"))}


def public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
