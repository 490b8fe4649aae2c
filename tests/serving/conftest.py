"""A server in a thread, with a source that does as a test says."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from hwsigner.cli import main
from hwsigner.cli import process as staying
from hwsigner.config.profiles import add_profile
from hwsigner.emulator import Emulator
from hwsigner.serving import credentials as replies
from hwsigner.serving.application import Application, Served
from hwsigner.serving.listener import listen, names_of
from hwsigner.serving.peer import Owners
from hwsigner.serving.server import Server
from hwsigner.system import notices
from scene import Outcome
from serving.raw import Client
from serving.stage import Stage

TOKEN = b"t" * 43
ROLE = "web-role"


class FakeSource:
    """Gives one reply for each format, or fails, or takes as long as a test wants."""

    def __init__(self) -> None:
        self.ready: bytes | Exception | None = b'{"AccessKeyId": "ASIAREADY"}'
        self.later: bytes | Exception = b'{"AccessKeyId": "ASIALATER"}'
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0

    def read(self, name: str) -> bytes | None:
        if isinstance(self.ready, Exception):
            raise self.ready
        return self.ready

    def reply(self, name: str) -> bytes:
        self.asked += 1
        assert self.may_answer.wait(30)
        if isinstance(self.later, Exception):
            raise self.later
        return self.later


@dataclass
class Running:
    """A server that runs.

    Attributes:
        port: where.
        source: of the profile `web` and the IMDS role.
        log: its lines of refusals.
        server: itself.
    """

    port: int
    source: FakeSource
    log: list[str]
    server: Server

    def client(self) -> Client:
        return Client(self.port)


@contextmanager
def run_server(
    users: set[int] | None = None, address: str = "127.0.0.1", owners: Owners | None = None
) -> Iterator[Running]:
    """Run a server for the profile `web` and the IMDS role while the block lasts."""
    source, log = FakeSource(), list[str]()
    listener = listen(address, 0, 64)
    profile = Served("web", TOKEN, source)
    application = Application([profile], names=names_of(listener, []), log=log.append)
    application.add_imds(ROLE, profile, {os.geteuid()} if users is None else users, owners)
    port = listener.getsockname()[1]
    server = Server(application.answer, [listener], log=log.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield Running(port, source, log, server)
    finally:
        source.may_answer.set()
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Running]:
    """A server for all tests of a module."""
    with run_server() as found:
        yield found


@pytest.fixture
def running(shared_server: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """The module's server, with a source that was not asked yet and an empty log."""
    monkeypatch.setattr(replies, "LOOK_SECONDS", 0.0)
    shared_server.source.__init__()  # type: ignore[misc]  # as new
    shared_server.log.clear()
    yield shared_server
    shared_server.source.may_answer.set()


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    """A connection to it."""
    with running.client() as found:
        yield found


@pytest.fixture
def stage(ca: certs.Authority, shared_emulator: Emulator, tmp_path: Path) -> Iterator[Stage]:
    """A home folder whose config.toml has the profile `web`, and the service that it leads to."""
    shared_emulator.behave()
    shared_emulator.requests.clear()
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key())))
    stage = Stage(shared_emulator, tmp_path, leaf, certs.write_key(tmp_path / "leaf.key", key))
    for name in ("run", "home"):
        (tmp_path / name).mkdir(mode=0o700)
    add_profile("web", stage.values(), stage.environ())
    yield stage
    shared_emulator.behave()


@pytest.fixture
def call(stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the program in this process, with the stage's environment, for what ends before it serves."""
    for name, value in stage.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(staying, "forbid_dumps", lambda: None)  # It would last, in this process.
    monkeypatch.setattr(notices, "_notify", None)  # Restored after the test.
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # What commands that stay set is put back.

    def run(*arguments: str) -> Outcome:
        status = main(arguments)
        return Outcome(status, *capfd.readouterr())

    return run
