"""A user's home for an agent: profiles, a runtime folder, an emulated service; and an agent in this process."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

import certs
from hwsigner._agent import protocol
from hwsigner._agent.client import Address, user_address
from hwsigner._agent.desktop import Desktop
from hwsigner._agent.listener import open_listener
from hwsigner._agent.memory import LockedMemory
from hwsigner._agent.profile import Shared
from hwsigner._agent.profiles import Profiles
from hwsigner._agent.protocol import Channel
from hwsigner._agent.server import AgentServer
from hwsigner._monitoring.log import Log
from hwsigner._refresh.monitor import Monitor
from hwsigner._system.systemd import Notifier
from hwsigner.emulator import Emulator

PASSPHRASE = "correct horse"


@dataclass(frozen=True)
class Home:
    """A home.

    Attributes:
        folder: everything is in it.
        ca: the CA that the emulator trusts.
        emulator: the service.
    """

    folder: Path
    ca: certs.Authority
    emulator: Emulator

    @property
    def environ(self) -> dict[str, str]:
        """The environment of this user's programs."""
        runtime = self.folder / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        config = self.folder / "config"
        (config / "hwsigner").mkdir(parents=True, exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(config),
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_STATE_HOME": str(self.folder),
        }

    @property
    def address(self) -> Address:
        """Where the user's agent listens."""
        return user_address(self.environ)

    def write_profiles(self, **profiles: dict[str, Any]) -> None:
        """Write the profiles, each with a key of its own in a file, and the given values."""
        tables = [self._table(name, values) for name, values in profiles.items()]
        path = Path(self.environ["XDG_CONFIG_HOME"]) / "hwsigner" / "config.toml"
        fresh = path.with_suffix(".new")
        fresh.write_text("\n".join(tables))
        fresh.replace(path)

    def encrypted_key(self, name: str) -> Path:
        """Give a profile a key with a passphrase, and return its path."""
        key = ec.generate_private_key(ec.SECP256R1())
        path = self.folder / f"{name}.key"
        path.touch(0o600)
        encryption = BestAvailableEncryption(PASSPHRASE.encode())
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        self._write_leaf(name, key)
        return path

    def gated_key(self, name: str) -> tuple[str, Path]:
        """Make a key that opens once its passphrase is written into a FIFO; return its URI and the FIFO."""
        path, gate = self.encrypted_key(name), self.folder / f"{name}.gate"
        os.mkfifo(gate, 0o600)
        return f"file:{path}?pin-source={quote(f'cmd:cat {gate}', safe='')}", gate

    def _table(self, name: str, values: dict[str, Any]) -> str:
        path = self.folder / f"{name}.key"
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            certs.write_key(path, key)
            self._write_leaf(name, key)
        emulator = self.emulator
        table = {
            "certificate": str(self.folder / f"{name}.pem"),
            "private-key": str(path),
            "trust-anchor-arn": emulator.trust_anchor_arn,
            "profile-arn": emulator.profile_arn,
            "role-arn": emulator.role_arn,
            "endpoint": emulator.url,
            **values,
        }
        lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
        return "\n".join([f"[profile.{name}]", *lines, ""])

    def write_leaf(self, name: str, shape: certs.Shape) -> None:
        """Give the unencrypted key of a profile another certificate."""
        key = load_pem_private_key((self.folder / f"{name}.key").read_bytes(), None)
        (self.folder / f"{name}.pem").write_bytes(certs.pem(certs.issue(self.ca, key.public_key(), shape)))

    def _write_leaf(self, name: str, key: Any) -> None:
        (self.folder / f"{name}.pem").write_bytes(certs.pem(certs.issue(self.ca, key.public_key())))


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f'"{value}"'


@dataclass
class Running:
    """An agent in a thread of this process.

    Attributes:
        ended: whether all keys were closed, once it has ended.
    """

    home: Home
    memory: LockedMemory
    server: AgentServer
    thread: threading.Thread
    log: list[str] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)

    def connect(self) -> socket.socket:
        """Connect to it; the caller closes the socket."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        try:
            connection.connect(self.home.address.socket)
        except OSError:
            connection.close()
            raise
        return connection

    def ask(self, line: bytes) -> bytes:
        """Send a line and return all of the answer."""
        with self.connect() as connection:
            with suppress(BrokenPipeError):  # The agent does not read from a client that it refuses.
                connection.sendall(line)
            return read_all(connection)

    def get(self, name: str = "web") -> bytes:
        """Return the answer to a `get` without the lines that report that the agent is working."""
        answer = self.ask(b"1 get %s\n" % name.encode())
        while answer.startswith(protocol.WORKING):
            answer = answer.removeprefix(protocol.WORKING)
        return answer

    @contextmanager
    def conversation(self, line: bytes) -> Iterator[Channel]:
        """Send a line and give the connection."""
        with self.connect() as connection:
            channel = Channel(connection)
            channel.send(line)
            yield channel

    @contextmanager
    def waiting(self, line: bytes) -> Iterator[socket.socket]:
        """Send a line, and give the connection once the agent reports that it is working."""
        with self.connect() as connection:
            connection.sendall(line)
            assert read_exactly(connection, len(protocol.WORKING)) == protocol.WORKING
            yield connection

    def secrets(self) -> int:
        """Return how many secrets are in locked memory, once the loop has let go of the answers that it sent."""
        self.settle()
        return len(self.memory)

    def settle(self) -> None:
        """Wait until the loop has handled everything that came before."""
        for _ in range(2):  # An event that came before may be handled after the first round.
            done = threading.Event()
            self.server.post(done.set)
            assert done.wait(20)


@contextmanager
def run_agent(home: Home, *, is_system: bool = False, desktop: Desktop | None = None) -> Iterator[Running]:
    """Run an agent for a home, whose user may have a desktop."""
    log, ended = list[str](), list[bool]()

    class Lines(Log):
        """Takes the lines without their fields."""

        def note(self, text: str, priority: int | None = None, **_: object) -> None:
            log.append(text)

    memory, lines = LockedMemory(log.append), Lines()
    with open_listener(home.address, {}) as listener:
        profiles = Profiles(Shared(home.environ, memory, lines.note, is_system, Monitor(lines), desktop))
        server = AgentServer(listener, profiles, memory=memory, is_open=is_system, log=lines.note)
        thread = threading.Thread(target=lambda: ended.append(server.run(Notifier({}))))
        thread.start()
        try:
            yield Running(home, memory, server, thread, log, ended)
        finally:
            server.post(server.stop)
            thread.join()


def read_end(connection: socket.socket) -> bytes:
    """Read until the other end closes; return the answer without the lines that report that the agent is working."""
    return read_all(connection).replace(protocol.WORKING, b"")


def read_all(connection: socket.socket) -> bytes:
    """Read until the other end closes, even if it has not read everything."""
    answer = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            answer += data
    return answer


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """Read so many bytes, or fewer if the other end closes."""
    answer = b""
    while len(answer) < size and (data := connection.recv(size - len(answer))):
        answer += data
    return answer
