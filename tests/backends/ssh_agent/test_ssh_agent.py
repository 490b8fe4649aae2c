"""A backend in a package of its own: installed with pip, it passes the contract and gets credentials."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

import certs
from hwsigner import Key, KeyURI, open_key
from hwsigner.emulator import Emulator
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    KeyNotFoundError,
    SigningKeyError,
    UnsupportedKeyError,
    UsageError,
)
from hwsigner.testing import KeyContract, MakeKey, OpenKey

pytestmark = pytest.mark.slow  # pip installs the package.

HERE = Path(__file__).parent
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
KINDS = {"RSA-2048": ("rsa", "2048"), "P-256": ("ecdsa", "256"), "P-384": ("ecdsa", "384"), "Ed25519": ("ed25519", "")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that pip installed the package into, on the path of modules."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", f"--target={folder}", str(HERE)]
    subprocess.run(command, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        backends = importlib.import_module("hwsigner.backends")
        patch.setattr(backends, "BACKENDS", dict(backends.BACKENDS))
        backends._load_entry_point.cache_clear()
        yield folder
    backends._load_entry_point.cache_clear()


class Agent:
    """A running ssh-agent with a key of each kind, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "agent"
        self._process = subprocess.Popen(["ssh-agent", "-D", "-a", str(self.socket)], stdout=subprocess.DEVNULL)
        while not self.socket.exists():
            time.sleep(0.005)

    def run(self, *command: str, text: str = "") -> str:
        """Run a program of OpenSSH with this agent."""
        environment = {**ENVIRONMENT, "HOME": str(self.folder), "SSH_AUTH_SOCK": str(self.socket)}
        ran = subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=True)
        return ran.stdout

    def add(self, kind: str) -> None:
        """Make a key whose comment is its kind, if it is not there, and add it."""
        path, (algorithm, bits) = self.folder / kind, KINDS[kind]
        if not path.exists():
            size = ["-b", bits] if bits else []
            self.run("ssh-keygen", "-q", "-t", algorithm, *size, "-N", "", "-C", kind, "-f", str(path))
        self.run("ssh-add", "-q", str(path))

    def public_key(self, kind: str) -> bytes:
        """Return the DER SubjectPublicKeyInfo of a kind's key, from the file that ssh-keygen wrote."""
        public = load_ssh_public_key((self.folder / f"{kind}.pub").read_bytes())
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def running() -> Iterator[Agent]:
    # Not tmp_path, which may be too long for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
        agent = Agent(Path(folder))
        yield agent
        agent.close()


@pytest.fixture
def agent(installed: Path, running: Agent, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent that SSH_AUTH_SOCK names, with every key."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(running.socket))
    for kind in KINDS:
        running.add(kind)
    return running


class TestSSHAgentKey(KeyContract):
    KINDS = ("RSA-2048", "P-256")
    HASHES = ("sha256",)
    MAX_MESSAGE = 1 << 17

    @pytest.fixture
    def make_key(self, agent: Agent) -> MakeKey:
        def make(kind: str) -> tuple[Key, bytes]:
            return open_key(f"ssh-agent:comment={kind}"), agent.public_key(kind)

        return make

    @pytest.fixture
    def absent_key(self, agent: Agent) -> OpenKey:
        return lambda: open_key("ssh-agent:comment=absent")

    @pytest.fixture
    def unreachable_key(self, agent: Agent, tmp_path: Path) -> OpenKey:
        return lambda: open_key(f"ssh-agent:comment=P-256?socket={tmp_path}/none")

    @pytest.fixture
    def lost_key(self, installed: Path) -> Iterator[Key]:
        with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder:
            other = Agent(Path(folder))
            other.add("P-256")
            key = open_key(f"ssh-agent:comment=P-256?socket={other.socket}")
            other.close()
            yield key


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256"])
def test_command_line_gets_credentials_with_the_certificates_key(
    agent: Agent, installed: Path, ca: certs.Authority, shared_emulator: Emulator, tmp_path: Path, kind: str
) -> None:
    leaf = tmp_path / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, agent.public_key(kind))))
    service = shared_emulator
    flags = [f"--certificate={leaf}", "--private-key=ssh-agent:", f"--endpoint={service.url}"]
    flags += [f"--trust-anchor-arn={service.trust_anchor_arn}", f"--profile-arn={service.profile_arn}"]
    command = [sys.executable, "-m", "hwsigner", "credential-process", *flags, f"--role-arn={service.role_arn}"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "AccessKeyId" in json.loads(ran.stdout)


class TestNames:
    def test_key_is_found_by_its_fingerprint(self, agent: Agent) -> None:
        listed = next(line for line in agent.run("ssh-add", "-l").splitlines() if "P-256" in line)
        uri = f"ssh-agent:fingerprint={listed.split()[1]}"
        assert open_key(uri).public_key() == agent.public_key("P-256")
        assert open_key(str(KeyURI.parse(uri))).public_key() == agent.public_key("P-256")

    def test_key_is_found_by_the_certificates_public_key(self, agent: Agent) -> None:
        for kind in ("P-256", "RSA-2048"):
            assert open_key("ssh-agent:", public_key=agent.public_key(kind)).public_key() == agent.public_key(kind)

    def test_agent_is_found_by_its_socket(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SSH_AUTH_SOCK")
        assert open_key(f"ssh-agent:comment=P-256?socket={agent.socket}").sign(b"message")
        with pytest.raises(BackendUnavailableError, match="SSH_AUTH_SOCK is not set"):
            open_key("ssh-agent:")

    @pytest.mark.parametrize(
        ("uri", "error", "words"),
        [
            ("ssh-agent:", AmbiguousKeyError, r"names 2 keys.*\(P-256\)"),
            ("ssh-agent:comment=none", KeyNotFoundError, "no key ssh-agent:comment=none"),
            ("ssh-agent:comment=P-384", UnsupportedKeyError, r"SHA256:.*\(P-384\)"),
            ("ssh-agent:?socket=/nonexistent", BackendUnavailableError, "/nonexistent"),
            ("ssh-agent:name=web", UsageError, "no attribute 'name'"),
        ],
    )
    def test_key_that_can_not_be_opened_is_reported(
        self, agent: Agent, uri: str, error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            open_key(uri)


def test_key_signs_only_while_the_agent_has_it(agent: Agent) -> None:
    key = open_key("ssh-agent:comment=P-256")
    agent.run("ssh-add", "-D")
    with pytest.raises(SigningKeyError, match="did not sign"):
        key.sign(b"message")
    agent.add("P-256")
    assert key.sign(b"message")
