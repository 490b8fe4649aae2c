"""Agents as processes of their own, and hwsigner-credentials beside the real `hwsigner`."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.homes import Home

AGENT = [sys.executable, "-P", "-m", "hwsigner", "agent"]


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.path.unlink()

    def next(self) -> list[str]:
        """Return the lines of the next datagram."""
        return self.socket.recv(4096).decode().splitlines()


@dataclass(frozen=True)
class AgentProcess:
    """An agent.

    Attributes:
        home: whose it is.
        process: its process.
        manager: what it tells how it is.
    """

    home: Home
    process: subprocess.Popen[str]
    manager: Manager

    def status(self, field: str) -> int:
        """Return a number from its /proc/PID/status."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"^{field}:\s+([0-9]+)", text, re.MULTILINE)
        assert match, field
        return int(match[1])

    def stop(self) -> tuple[int, str]:
        """End it as systemd does; return its exit status and what it wrote to stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


def ready(process: subprocess.Popen[str], manager: Manager) -> bool:
    """Wait until an agent answers, or has ended."""
    deadline = time.monotonic() + 30
    while not (readable := select.select([manager.socket], [], [], 0.05)[0]) and process.poll() is None:
        assert time.monotonic() < deadline
    return bool(readable) and manager.next()[0] == "READY=1"


@contextmanager
def agent_process(home: Home, command: Sequence[str] = AGENT, **environ: str) -> Iterator[AgentProcess]:
    """Start an agent for a home, and give it once it is ready."""
    with Manager(home.folder / "notify") as manager:
        process = subprocess.Popen(
            command,
            env={**home.environ, "NOTIFY_SOCKET": str(manager.path), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert ready(process, manager), process.communicate()
                yield AgentProcess(home, process, manager)
            finally:
                process.kill()


def ask(program: Path, home: Home, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program as the home's user, as the AWS CLI does: stdout and stderr are pipes that are read to the end."""
    return subprocess.run(
        [program, *arguments], env={**home.environ, **environ}, capture_output=True, text=True, timeout=60
    )
