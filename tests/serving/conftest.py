"""A server in a thread, whose source a test controls."""

from __future__ import annotations

import hmac
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from hwsigner._aws.credentials import Credentials
from hwsigner._cli import main
from hwsigner._config.profiles import add_profile
from hwsigner._serving import credentials
from hwsigner._serving.admission import Users
from hwsigner._serving.application import Application
from hwsigner._serving.listener import listen, names_of
from hwsigner._serving.server import HTTPServer
from hwsigner._system import notices
from hwsigner.emulator import Emulator
from scene import Outcome
from serving.raw import Client
from serving.stage import Clock, Stage

TOKEN = b"t" * 43
ROLE = "web-role"


class FakeCredentials(Credentials):
    """Credentials whose body is the same in each format."""

    def __init__(self, body: bytes) -> None:
        super().__init__("ASIAFAKE", "", "", datetime.max.replace(tzinfo=UTC), "", "")
        self.body = body


class FakeSource:
    """Gives credentials with the bodies that a test sets, or fails, or takes as long as it wants."""

    def __init__(self) -> None:
        self.ready: bytes | Exception | None = b'{"AccessKeyId": "ASIAREADY"}'
        self.later: bytes | Exception = b'{"AccessKeyId": "ASIALATER"}'
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0
        self.read_count = 0
        self._made: dict[bytes, FakeCredentials] = {}

    def at_once(self) -> Credentials | None:
        self.read_count += 1
        if isinstance(self.ready, Exception):
            raise self.ready
        return None if self.ready is None else self._credentials(self.ready)

    def __call__(self) -> Credentials:
        self.asked += 1
        assert self.may_answer.wait(30)
        if isinstance(self.later, Exception):
            raise self.later
        return self._credentials(self.later)

    def _credentials(self, body: bytes) -> Credentials:
        return self._made.setdefault(body, FakeCredentials(body))


@dataclass
class Running:
    """A running server.

    Attributes:
        port: its port.
        source: the credentials of the profile `web` and the IMDS role.
        log: its log lines.
        server: the server.
    """

    port: int
    source: FakeSource
    log: list[str]
    server: HTTPServer

    def client(self) -> Client:
        return Client(self.port)


@contextmanager
def run_server(
    users: set[int] | None = None, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[Running]:
    """Run a server for the profile `web` and the IMDS role in a thread."""
    source, log = FakeSource(), list[str]()
    listener = listen(address, 0, 64)
    application = Application(names_of(listener, ["localhost"]), log.append)
    admitted = Users({os.geteuid()} if users is None else users, log.append)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("container_json", "imds_json"):
            patch.setattr(f"hwsigner._serving.application.{name}", lambda credentials: credentials.body)
        application.add_container("web", source, partial(hmac.compare_digest, TOKEN), admitted)
        application.add_imds(ROLE, source, TOKEN, admitted)
    port = listener.getsockname()[1]
    server = HTTPServer(application, [listener], log=log.append, tls=tls)
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
    """The module's server, with a new source and an empty log."""
    monkeypatch.setattr(credentials, "LOOK_SECONDS", 0.0)
    shared_server.source.__init__()  # type: ignore[misc]  # as new
    shared_server.log.clear()
    yield shared_server
    shared_server.source.may_answer.set()


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    """A connection to the module's server."""
    with running.client() as found:
        yield found


@pytest.fixture
def stage(ca: certs.Authority, shared_emulator: Emulator, short_folder: Path) -> Iterator[Stage]:
    """A home folder with the profile `web` in config.toml, and its service."""
    shared_emulator.clear_faults()
    shared_emulator.requests.clear()
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = short_folder / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key())))
    stage = Stage(shared_emulator, short_folder, leaf, certs.write_key(short_folder / "leaf.key", key))
    for name in ("run", "home"):
        (short_folder / name).mkdir(mode=0o700)
    add_profile("web", stage.values(), stage.environ())
    yield stage
    shared_emulator.clear_faults()


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock for programs that are started with its wrapper."""
    return Clock(tmp_path)


@pytest.fixture
def call(stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run hwsigner in this process, with the stage's environment, for runs that end before they serve."""
    for name, value in stage.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(notices, "_notify", None)  # Commands set this and the next; both are put back.
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def run(*arguments: str) -> Outcome:
        status = main(arguments)
        return Outcome(status, *capfd.readouterr())

    return run
