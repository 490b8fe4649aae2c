"""Each command does its main work once: in this process, without hardware, and in a fraction of a second."""

from __future__ import annotations

import gc
import json
import os
import resource
import shlex
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import certs
from attestation.piv_chains import old_chain
from federation import federation
from hwsigner import attestation
from hwsigner._agent.client import find_credentials
from hwsigner._cli import COMMANDS
from hwsigner._cli import list as list_command
from hwsigner._config import profiles
from hwsigner._system import notices
from hwsigner._version import __version__
from hwsigner.emulator import Emulator, World
from hwsigner.trust_policy.writing import write_trust_policy
from judges import needs_systemd
from ports import reserve_port
from scene import Scene

ADMIN = ("AKIDADMIN", "an-admins-secret")
ANCHOR = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"
CHIP = "1" * 64
SUBJECT = "CN=bamboo-01,OU=devops"


@dataclass(frozen=True)
class Place:
    """A home with the profile `web`, whose key and certificate are in files, and the service that accepts them."""

    scene: Scene
    folder: Path
    patch: pytest.MonkeyPatch

    def run(self, *arguments: str | Path) -> str:
        """Run a command that succeeds, and return its output."""
        done = self.scene.call(*arguments)
        assert done.status == 0, done.err
        return done.out

    def data(self, *arguments: str | Path) -> Any:
        """Run a command that succeeds, and return its output as JSON."""
        return json.loads(self.run(*arguments, "--json"))

    def issuer(self) -> str:
        """Return a command that issues certificates, which end later than the one in use."""
        (self.folder / "ca.pem").write_bytes(self.scene.ca.pem)
        key = certs.write_key(self.folder / "ca.key", self.scene.ca.key)
        files = ["-CA", str(self.folder / "ca.pem"), "-CAkey", str(key)]
        return shlex.join(["openssl", "x509", "-req", *files, "-copy_extensions", "copy", "-days=60"])

    @contextmanager
    def served(self, use: Callable[[], object]) -> Iterator[None]:
        """End the server that the `with` statement runs in this thread, once a use of it in another one succeeds."""
        ended = threading.Event()
        failures: list[BaseException] = []

        def use_and_end() -> None:
            try:
                _retry(use)
            except BaseException as error:
                failures.append(error)
            if not ended.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

        user = threading.Thread(target=use_and_end)
        user.start()
        try:
            yield
        finally:
            ended.set()
            user.join()
        assert failures == []


def _retry(use: Callable[[], object]) -> None:
    """Call a function until it returns something true and raises no OSError."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError):
            if use():
                return
        time.sleep(0.005)
    pytest.fail("the server did not answer")


def _answers(port: int) -> bool:
    """Return whether a server answers HTTP requests, with whatever status."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/"):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a server does to its process."""
    limit, hook, numbers = (
        resource.getrlimit(resource.RLIMIT_NOFILE),
        threading.excepthook,
        (signal.SIGINT, signal.SIGTERM),
    )
    monkeypatch.setattr(gc, "freeze", lambda: None)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    threading.excepthook = hook
    for number, handler in handlers.items():
        signal.signal(number, handler)
    notices.set_notifier(None)


@pytest.fixture
def place(scene: Scene, short_folder: Path, monkeypatch: pytest.MonkeyPatch, process: None) -> Place:
    monkeypatch.setenv("HOME", str(short_folder))
    for name in ("CONFIG_HOME", "STATE_HOME", "RUNTIME_DIR"):
        (short_folder / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"XDG_{name}", str(short_folder / name))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(short_folder / "aws"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(short_folder / "credentials"))
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(short_folder / "none"))
    # A thread that hangs would end the tests, and on a busy machine one may seem to.
    monkeypatch.setattr("hwsigner._cli.server_run._CLOSE_SECONDS", 20.0)
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail(f"a thread hangs; status {status}"))
    monkeypatch.chdir(short_folder)
    made = Place(scene, short_folder, monkeypatch)
    made.run("profile", "add", "web", *scene.flags())
    return made


RUNS: dict[str, Callable[[Place], None]] = {}


def run_of(name: str) -> Callable[[Callable[[Place], None]], Callable[[Place], None]]:
    """Enter a function as the run of a command."""

    def enter(run: Callable[[Place], None]) -> Callable[[Place], None]:
        RUNS[name] = run
        return run

    return enter


@run_of("credential-process")
def credential_process(place: Place) -> None:
    assert json.loads(place.run("credential-process", "--profile=web"))["AccessKeyId"].startswith("ASIA")


@run_of("serve")
def serve(place: Place) -> None:
    port = reserve_port()
    with place.served(lambda: place.scene.emulator.requests and _answers(port)):
        place.run("serve", "--profile=web", f"--port={port}")


@run_of("exec")
def exec_(place: Place) -> None:
    # Threads of the tests may receive the signal of the child's end.
    place.patch.setattr("hwsigner._cli.child._POLL_SECONDS", 0.01)
    place.run("exec", "web", "--", "sh", "-c", 'test -n "$AWS_CONTAINER_CREDENTIALS_FULL_URI"')


@run_of("update")
def update(place: Place) -> None:
    place.run("update", "--config-profile=web", "--profile=default", "--once")
    assert "ASIA" in (place.folder / "credentials").read_text()


@run_of("agent")
def agent(place: Place) -> None:
    place.patch.setattr("hwsigner._agent.memory.lock_process", lambda: None)  # It would last as long as this process.
    with place.served(lambda: find_credentials("web")):
        place.run("agent")


@run_of("sign-string")
def sign_string(place: Place) -> None:
    assert place.run("sign-string", f"--private-key={place.scene.key}").startswith('"30')


@run_of("read-certificate-data")
def read_certificate_data(place: Place) -> None:
    assert json.loads(place.run("read-certificate-data", f"--certificate={place.scene.leaf}"))["keyType"] == "EC"


@run_of("list")
def list_(place: Place) -> None:
    place.patch.setattr(list_command, "list_tokens", lambda *_, **__: [])
    assert place.data("list", "pkcs11:") == {"tokens": []}


@run_of("status")
def status(place: Place) -> None:
    assert place.data("status")["profiles"][0]["name"] == "web"


@run_of("whoami")
def whoami(place: Place) -> None:
    place.patch.setenv("AWS_ENDPOINT_URL_STS", place.scene.emulator.url)
    assert place.data("whoami", "--profile=web")["Account"] == "123456789012"


@run_of("console")
def console(place: Place) -> None:
    with federation(place.scene.emulator) as endpoint:
        url = place.run("console", "--profile=web", f"--federation-endpoint={endpoint.url}")
    assert url.startswith(f"{endpoint.url}?Action=login&")


@run_of("doctor")
def doctor(place: Place) -> None:
    done = place.scene.call("doctor", "--json")
    assert "findings" in json.loads(done.out)


@run_of("keygen")
def keygen(place: Place) -> None:
    place.run("keygen", place.folder / "new.key")
    assert b"PRIVATE KEY" in (place.folder / "new.key").read_bytes()


@run_of("csr")
def csr(place: Place) -> None:
    assert "CERTIFICATE REQUEST" in place.run("csr", place.scene.key, f"--subject={SUBJECT}")


@run_of("install-certificate")
def install_certificate(place: Place) -> None:
    place.run("install-certificate", place.scene.leaf, place.scene.key)
    assert place.scene.key.with_suffix(".crt").exists()


@run_of("enroll")
def enroll(place: Place) -> None:
    flags = place.scene.flags(certificate=None, private_key=place.folder / "new.key")
    place.run("enroll", "new", *flags, f"--subject={SUBJECT}", f"--issuer-command={place.issuer()}")
    assert (place.folder / "new.crt").exists()


@run_of("renew")
def renew(place: Place) -> None:
    place.run("profile", "edit", "web", f"--issuer-command={place.issuer()}")
    place.run("renew", "web")
    assert place.scene.key.with_suffix(".crt").exists()


@run_of("show")
def show(place: Place) -> None:
    assert place.data("show", place.scene.key)["publicKey"]


@run_of("delete")
def delete(place: Place) -> None:
    place.run("delete", place.scene.key, "--yes")
    assert not place.scene.key.exists()


@run_of("attest")
def attest(place: Place) -> None:
    place.patch.setattr(attestation, "make_statement", lambda *_, **__: old_chain().statement)
    assert json.loads(place.run("attest", "pkcs11:token=one;object=any"))["format"] == "piv"


@run_of("verify-attestation")
def verify_attestation(place: Place) -> None:
    chain = old_chain()
    (place.folder / "roots").mkdir()
    (place.folder / "roots" / "root.der").write_bytes(chain.root.der)
    (place.folder / "statement").write_text(chain.statement.to_json())
    place.patch.setattr("hwsigner.attestation.chain.Trust.time", lambda self: chain.trust.now)
    assert "PUBLIC KEY" in place.run("verify-attestation", "statement", "--roots=roots")


@run_of("registrar")
def registrar(place: Place) -> None:
    registrar_allow(place)
    registrar_rotate_keys(place)
    port = reserve_port()
    (place.folder / "roots").mkdir()
    (place.folder / "roots" / "ca.pem").write_bytes(place.scene.ca.pem)
    files = ["--policy=policy", "--keys=keys", "--roots=roots"]
    with place.served(lambda: _answers(port)):
        place.run("registrar", *files, f"--port={port}", f"--issuer-command={place.issuer()}")


@run_of("registrar allow")
def registrar_allow(place: Place) -> None:
    place.run("registrar", "allow", CHIP, f"--subject={SUBJECT}", "--policy=policy")
    assert CHIP in (place.folder / "policy").read_text()


@run_of("registrar remove")
def registrar_remove(place: Place) -> None:
    registrar_allow(place)
    place.run("registrar", "remove", "bamboo-01", "--policy=policy")
    assert CHIP not in (place.folder / "policy").read_text()


@run_of("registrar list")
def registrar_list(place: Place) -> None:
    registrar_allow(place)
    assert place.data("registrar", "list", "--policy=policy")["machines"][0]["tpm"] == CHIP


@run_of("registrar rotate-keys")
def registrar_rotate_keys(place: Place) -> None:
    assert len(place.data("registrar", "rotate-keys", "--keys=keys")["keys"]) == 1


@run_of("aws principal-tags")
def aws_principal_tags(place: Place) -> None:
    assert place.data("aws", "principal-tags", place.scene.leaf)["x509Subject/CN"] == "bamboo-01"


@run_of("aws trust-policy")
def aws_trust_policy(place: Place) -> None:
    policy = json.loads(place.run("aws", "trust-policy", "--match=CN=bamboo-01", f"--trust-anchor-arn={ANCHOR}"))
    assert policy["Statement"]


@run_of("aws template")
def aws_template(place: Place) -> None:
    (place.folder / "ca.pem").write_bytes(place.scene.ca.pem)
    assert "web" in place.run("aws", "template", "terraform", "--ca=ca.pem", "--role=web", "--match=CN=bamboo-01")


@run_of("aws setup")
def aws_setup(place: Place) -> None:
    (place.folder / "ca.pem").write_bytes(place.scene.ca.pem)
    with Emulator(World()) as emulator:
        flags = ["--ca=ca.pem", "--role=new", "--match=CN=bamboo-01", "--region=us-east-1", "--yes"]
        place.run("aws", "setup", *flags, f"--endpoint={_administered(emulator, place)}")
        assert len(emulator.world.trust_anchors) == 1


def _administered(emulator: Emulator, place: Place) -> str:
    """Let the environment have an administrator's credentials, and return the URL."""
    emulator.add_credentials(*ADMIN)
    place.patch.setenv("AWS_ACCESS_KEY_ID", ADMIN[0])
    place.patch.setenv("AWS_SECRET_ACCESS_KEY", ADMIN[1])
    return emulator.url


@run_of("aws check")
def aws_check(place: Place) -> None:
    policy = write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=ANCHOR)
    (place.folder / "policy").write_text(json.dumps(policy))
    place.run("aws", "check", "--policy=policy")


@run_of("aws revoke")
def aws_revoke(place: Place) -> None:
    place.issuer()
    with Emulator(World.simple(place.scene.ca.certificate)) as emulator:
        flags = [f"--trust-anchor-arn={emulator.trust_anchor_arn}", "--ca=ca.pem", "--ca-key=ca.key", "--yes"]
        place.run("aws", "revoke", "--serial=0x1234", *flags, f"--endpoint={_administered(emulator, place)}")
        assert len(emulator.world.crls) == 1


@run_of("profile")
def profile(place: Place) -> None:
    place.run("profile", "remove", "web")
    assert place.data("profile", "list") == {"profiles": []}


@run_of("migrate")
def migrate(place: Place) -> None:
    program = "aws_signing_helper credential-process"
    flags = (
        f"--certificate=/a.pem --trust-anchor-arn={ANCHOR} --profile-arn={ANCHOR.replace('trust-anchor', 'profile')}"
    )
    role = "--role-arn=arn:aws:iam::123456789012:role/moved"
    (place.folder / "config").write_text(f"[profile moved]\ncredential_process = {program} {flags} {role}\n")
    place.run("migrate", "config", "--yes")
    assert place.data("profile", "show", "moved")["values"]["certificate"] == "/a.pem"


@run_of("retire")
def retire(place: Place) -> None:
    place.run("retire", "web", "--yes")
    assert not place.scene.key.exists()


@run_of("systemd")
def systemd(place: Place) -> None:
    program = place.folder / "bin" / "systemctl"
    program.parent.mkdir()
    program.symlink_to("/bin/true")
    place.patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    place.patch.setattr(sys, "argv", [str(Path(sys.executable).with_name("hwsigner"))])
    place.run("systemd", "install", "--user")
    assert (place.folder / "CONFIG_HOME" / "systemd" / "user" / "hwsigner-agent.socket").exists()


@run_of("launchd")
def launchd(place: Place) -> None:
    place.patch.setenv("HOME", str(place.folder))
    place.patch.setattr(sys, "platform", "darwin")
    place.patch.setattr(os, "geteuid", lambda: os.getuid() or 501)
    place.patch.setattr(sys, "argv", [str(Path(sys.executable).with_name("hwsigner"))])
    place.run("launchd", "install", "renew", "web")
    assert (place.folder / "Library" / "LaunchAgents" / "hwsigner.renew.web.plist").exists()


@run_of("completion")
def completion(place: Place) -> None:
    assert "credential-process" in place.run("completion", "bash")


@run_of("emulator")
def emulator(place: Place) -> None:
    port = reserve_port()
    (place.folder / "ca.pem").write_bytes(place.scene.ca.pem)
    with place.served(lambda: _answers(port)):
        place.run("emulator", "--trust-anchor=ca.pem", f"--port={port}")


@run_of("version")
def version(place: Place) -> None:
    assert place.run("version") == f"{__version__}\n"


NEEDS = {"systemd": needs_systemd}


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS.get(name, ())) for name in RUNS])
def test_command_does_its_main_work(name: str, place: Place) -> None:
    RUNS[name](place)


def test_each_command_has_a_run() -> None:
    assert RUNS.keys() == COMMANDS.keys()
