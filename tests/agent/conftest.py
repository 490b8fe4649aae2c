"""Fixtures of the agent's tests: the C program under sanitizers, and fake agents."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import certs
from agent.homes import Home, Running, run_agent
from hwsigner.emulator import Emulator

ROOT = Path(__file__).parents[2]
# Stands for the program in Python: prints its arguments.
PYTHON = """#!/bin/sh
printf 'python'
printf ' <%s>' "$@"
printf ' HWSIGNER_AGENT=%s\\n' "$HWSIGNER_AGENT"
exit 42
"""
# Milliseconds, for tests that would take long.
LIMITS = {"FIRST_BYTE": 600, "SILENCE": 1000, "LONGEST": 3000}


@dataclass(frozen=True)
class Program:
    """hwsigner-credentials, compiled for a test, beside a shell script that stands for `hwsigner`.

    Attributes:
        path: the program.
        system_folder: what it takes for /run/hwsigner.
        terminal: what it takes for /dev/tty.
    """

    path: Path
    system_folder: Path
    terminal: Path

    def run(
        self, *arguments: str, runtime: Path | str | None = None, **environ: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it with a runtime folder, and an environment of nothing but the given variables."""
        return subprocess.run(
            [self.path, *arguments],
            env={**({"XDG_RUNTIME_DIR": str(runtime)} if runtime else {}), **environ, "ASAN_OPTIONS": "detect_leaks=0"},
            capture_output=True,
            timeout=60,
        )


def compile_program(folder: Path, *options: str) -> Program:
    """Compile the program with a system folder of its own."""
    system = folder / "system"
    system.mkdir()
    (folder / "hwsigner").write_text(PYTHON)
    (folder / "hwsigner").chmod(0o755)
    path = folder / "hwsigner-credentials"
    terminal = folder / "terminal"
    options = (*STRICT, *options, f'-DSYSTEM_FOLDER="{system}"', f'-DTERMINAL="{terminal}"')
    subprocess.run(["gcc", *options, ROOT / "native" / "credentials.c", "-o", path], check=True)
    return Program(path, system, terminal)


STRICT = ("-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


@pytest.fixture(scope="session")
def program() -> Iterator[Program]:
    """The program under the sanitizers."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
        yield compile_program(Path(folder), *SANITIZERS)


@pytest.fixture(scope="session")
def real_program() -> Iterator[Path]:
    """The program as it is installed, beside the real program in Python, which takes its place on macOS."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
        path = Path(folder) / "hwsigner-credentials"
        path.with_name("hwsigner").symlink_to(Path(sys.executable).with_name("hwsigner"))
        if sys.platform == "darwin":
            path.write_text(f'#!/bin/sh\nexec {folder}/hwsigner credential-process "$@"\n')
            path.chmod(0o755)
        else:
            subprocess.run(["gcc", *STRICT, "-O2", ROOT / "native" / "credentials.c", "-o", path], check=True)
        yield path


@pytest.fixture(scope="session")
def hasty_program() -> Iterator[Program]:
    """The same, with shorter time limits."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
        yield compile_program(Path(folder), *SANITIZERS, *(f"-D{name}={value}" for name, value in LIMITS.items()))


Talk = Callable[[socket.socket], None]


@dataclass
class FakeAgent:
    """A process that listens where an agent should, and sends what a test wants.

    Attributes:
        folder: where its socket lies.
        talk: called with each connection.
        requests: what clients sent, up to a newline.
    """

    folder: Path
    talk: Talk
    requests: list[bytes] = field(default_factory=list)

    def answer_without_notes(self, connection: socket.socket, answer: bytes) -> None:
        """Answer as an earlier version does, which knows no notes. A talk."""
        if not self.requests[-1].endswith(b" notes\n"):
            connection.sendall(answer)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(20)
                self.requests.append(read_line(connection))
                self.talk(connection)


def read_line(connection: socket.socket) -> bytes:
    """Read up to a newline."""
    line = b""
    while not line.endswith(b"\n") and (data := connection.recv(1)):
        line += data
    return line


def says(answer: bytes) -> Talk:
    """Return a talk that is one answer."""
    return lambda connection: connection.sendall(answer)


@pytest.fixture
def runtime(short_folder: Path) -> Path:
    """A runtime folder with a folder for an agent."""
    short_folder.chmod(0o700)
    (short_folder / "hwsigner").mkdir(mode=0o700)
    return short_folder


@pytest.fixture
def fake_agent() -> Iterator[Callable[[Path, Talk], FakeAgent]]:
    """Start something that listens in a folder."""
    with ExitStack() as stack:

        def start(folder: Path, talk: Talk) -> FakeAgent:
            agent = FakeAgent(folder, talk)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            path = folder / "agent.sock"
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            listener.listen(16)
            thread = threading.Thread(target=agent.serve, args=(listener,))
            thread.start()
            stack.callback(path.unlink)
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return agent

        yield start


@pytest.fixture
def home(ca: certs.Authority, shared_emulator: Emulator, short_folder: Path) -> Iterator[Home]:
    """A home with the profile `web`, whose key is in a file."""
    shared_emulator.clear_faults()
    shared_emulator.requests.clear()
    home = Home(short_folder, ca, shared_emulator)
    home.write_profiles(web={})
    yield home
    shared_emulator.clear_faults()


@pytest.fixture
def running(home: Home) -> Iterator[Running]:
    """An agent in this process."""
    with run_agent(home) as running:
        yield running
