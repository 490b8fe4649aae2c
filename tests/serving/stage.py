"""Running hwsigner as a process, with a home folder and a service of the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from hwsigner.emulator import Emulator

PROGRAM = Path(sys.executable).parent / "hwsigner"

# Goes before hwsigner, and gives an agent of a busy machine more than a second to answer.
PATIENT = (
    sys.executable,
    "-c",
    "import sys; from hwsigner._agent import client; from hwsigner._cli import main; client.CONNECT_LIMIT = 60;"
    "client.Channel.answer.__defaults__ = (60,);"
    "sys.exit(main(sys.argv[2:]))",
)

# hwsigner with a monotonic clock that a file sets ahead, and almost without pauses between looks at it.
_CLOCKED = """if True:
    import sys, time
    from pathlib import Path
    from hwsigner._system import clocks

    ahead, boot_time = Path(sys.argv[1]), clocks.boot_time
    clocks.boot_time = lambda: boot_time() + float(ahead.read_text())
    clocks.Clocks.__init__.__defaults__ = clocks.utc_now, clocks.boot_time, time.sleep

    from hwsigner._cli import main, server_run  # These take their clocks as they are imported.
    from hwsigner._refresh import timer
    from hwsigner._serving import credentials

    server_run._LOOK_SECONDS = timer.LOOK_SECONDS = 0.05
    credentials.LOOK_SECONDS = 0
    sys.exit(main(sys.argv[3:]))
"""


class Clock:
    """The clock by which sessions expire. It goes with the time until a test sets it ahead.

    Attributes:
        file: says how far it is ahead.
        wrapper: goes before the program.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self._ahead = 0
        self.advance(0)
        self.wrapper = (sys.executable, "-c", _CLOCKED, str(self.file))

    def advance(self, seconds: int) -> None:
        """Set the clock of running programs ahead."""
        self._ahead += seconds
        new = self.file.with_suffix(".new")
        new.write_text(f"{self._ahead}")
        new.replace(self.file)


@dataclass
class Process:
    """A running program, whose stderr is read line by line."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_until(self, part: str) -> str:
        """Return the next line of stderr that contains a text, as soon as it comes."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if part in line:
                return line.rstrip("\n")
        raise AssertionError(f"it ended without {part!r}: {self.lines}")

    def variables(self, *, until: str = "AUTHORIZATION_TOKEN_FILE") -> dict[str, str]:
        """Return the variables that it tells the user to export, once it has printed all."""
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
        folder: contains everything.
        leaf: the path of the certificate.
        key: the path of its key.
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
        """Return the key, whose passphrase is `first` if it has one."""
        data = self.key.read_bytes()
        return load_pem_private_key(data, b"first" if b"ENCRYPTED" in data else None)

    def encrypt_key(self, passphrase: str) -> None:
        """Give the key a passphrase, or replace the passphrase `first`."""
        encryption = BestAvailableEncryption(passphrase.encode())
        data = self.private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        new = self.key.with_suffix(".new")
        new.touch(0o600)
        new.write_bytes(data)
        new.replace(self.key)

    @property
    def sessions(self) -> int:
        """How many sessions were requested."""
        return sum(record.request.path.startswith("/sessions") for record in self.service.requests)

    @property
    def role(self) -> str:
        return self.service.role_arn.rpartition("/")[2]

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of a process."""
        home, runtime = str(self.folder / "home"), str(self.folder / "run")
        return {"PATH": "/usr/bin:/bin", "HOME": home, "XDG_RUNTIME_DIR": runtime, "LANG": "C.UTF-8", **more}

    def run(
        self, *arguments: str, wrapper: tuple[str, ...] = (), environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run hwsigner to its end."""
        return subprocess.run(
            [*wrapper, str(PROGRAM), *arguments],
            env=environ or self.environ(),
            capture_output=True,
            text=True,
            timeout=60,
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
