"""What a killed process leaves of a key that it was making, and what the next one does with it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from any_module import delete_key, describe_key, generate_key
from backends.contract import ENVIRONMENT
from backends.pkcs11.tokens import key_uri, remove_tokens, tool
from emulators import InProcessSoftHSM
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import management
from hwsigner.backends.pkcs11.search import only_token, using
from hwsigner.backends.pkcs11.unfinished import MakingMark
from hwsigner.enrolment.steps import KeyToCertify, ensure_key, sign_request
from hwsigner.errors import KeyMismatchError, SigningKeyError
from hwsigner.key.management import KeyAccess
from softhsm.token import SoftHSM

ROOT = Path(__file__).parents[3]
LABEL, ID = "cut", b"\x07"
# Makes the key of an enrolment and signs its request.
ENROLMENT = """
import sys
from hwsigner.enrolment.steps import KeyToCertify, ensure_key, sign_request
from hwsigner.key.management import KeyAccess
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
target = KeyToCertify(KeyAccess(KeyURI.of(sys.argv[1]), PinSource(), allow_modules=True), "CN=bamboo-01")
ensure_key(target)
with target.access.open() as key:
    sign_request(target, key)
"""


class Call(NamedTuple):
    """A system call of a process: its name, and how many of that name there were before it."""

    name: str
    before: int


class Machine:
    """A machine with a token, on which commands run and are killed."""

    def __init__(self, folder: Path, attributes: str) -> None:
        self._folder = folder / "machine"
        self._clean = folder / "clean"
        self._log = folder / "log"
        hsm = SoftHSM(self._folder)
        hsm.make()
        hsm.add_token("one")
        pin = self._folder / "pin"
        pin.write_text("1234")
        pin.chmod(0o600)
        self.hsm = hsm
        self.uri = key_uri(hsm.module, attributes, token="one", query=f"&pin-source=file:{pin}")
        self._env = {**ENVIRONMENT, **hsm.env, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self._folder / "state")}
        self._env["XDG_RUNTIME_DIR"] = str(self._folder)
        self._folder.chmod(0o700)
        shutil.copytree(self._folder, self._clean)

    def reset(self) -> None:
        shutil.rmtree(self._folder)
        shutil.copytree(self._clean, self._folder)

    def writes_of_keygen(self) -> list[Call]:
        """Return the calls of `keygen` that change a file, after the one that marks the new key."""
        self.keygen("strace", "-o", str(self._log), "-e", "trace=openat,write,ftruncate")
        calls = re.findall(r"^(\w+)\((.*)", self._log.read_text(errors="replace"), re.MULTILINE)
        seen, is_marked, found = {"openat": 0, "write": 0, "ftruncate": 0}, False, []
        for name, rest in calls:
            is_marked = is_marked or "/making-" in rest
            if is_marked and name != "openat" and not rest.startswith("1, "):
                found.append(Call(name, seen[name]))
            seen[name] += 1
        self.reset()
        return found

    def kill_keygen(self, call: Call) -> None:
        """Run `keygen`, and kill it at one of its calls."""
        inject = f"inject={call.name}:signal=SIGKILL:when={call.before + 1}"
        assert self.keygen("strace", "-o", str(self._log), "-e", inject).returncode == -signal.SIGKILL

    def keygen(self, *before: str) -> subprocess.CompletedProcess[str]:
        return self._run(*before, sys.executable, "-m", "hwsigner", "keygen", self.uri)

    def enroll(self) -> subprocess.CompletedProcess[str]:
        return self._run(sys.executable, "-c", ENROLMENT, self.uri)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self._env, capture_output=True, text=True, cwd=ROOT)

    def objects(self) -> list[str]:
        """Return the kinds of the objects with the key's label."""
        shown = re.split(r"\n(?=\S)", tool(self.hsm, "one", "--list-objects"))
        return sorted(one.split()[0] for one in shown if re.search(rf"label: +{LABEL}$", one, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize(("attributes", "last"), [(f"object={LABEL}", 9), (f"object={LABEL};id=%07", 3)])
def test_next_run_completes_or_clears_what_a_kill_at_any_write_left(
    hardware: None, tmp_path: Path, attributes: str, last: int
) -> None:
    machine = Machine(tmp_path, attributes)
    calls = machine.writes_of_keygen()
    for call in calls[-last:]:
        machine.kill_keygen(call)
        again = machine.keygen()
        assert again.returncode == 0, (call, again.stderr)
        assert machine.objects() == ["Private", "Public"], call
        machine.reset()
        machine.kill_keygen(call)
        again = machine.enroll()
        assert again.returncode == 0, (call, again.stderr)
        assert machine.objects() == ["Private", "Public"], call
        machine.reset()


@pytest.fixture(scope="module")
def module_hsm(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    yield softhsm
    remove_tokens(softhsm, softhsm.label)


@pytest.fixture
def hsm(module_hsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    """A token without objects, and with the mark of a key that was not made whole."""
    mark_names(module_hsm)
    yield module_hsm
    for kind in ("privkey", "pubkey", "cert"):
        if kind.removesuffix("key") in tool(module_hsm, module_hsm.label, "--list-objects").lower():
            pkcs11_tool(module_hsm, "--delete-object", "--type", kind, "--label", LABEL)


def mark_names(hsm: InProcessSoftHSM) -> None:
    with using(only_token(KeyURI.of(uri_of(hsm)))) as token:
        MakingMark(token, LABEL.encode()).write(ID)


def uri_of(hsm: InProcessSoftHSM) -> str:
    return key_uri(hsm.module, f"object={LABEL};id=%07", token=hsm.label)


def pkcs11_tool(hsm: InProcessSoftHSM, *arguments: str) -> None:
    tool(hsm, hsm.label, *arguments)


def enrol(hsm: InProcessSoftHSM) -> bool:
    """Return whether an enrolment makes its key now."""
    target = KeyToCertify(KeyAccess(KeyURI.of(uri_of(hsm)), PinSource.of("1234"), allow_modules=True), "CN=bamboo-01")
    made = ensure_key(target)[1]
    with target.access.open() as key:
        sign_request(target, key)
    return made


def half_made(hsm: InProcessSoftHSM) -> None:
    """Leave a private key alone that was made in the token."""
    hsm.generate(LABEL, ID, "EC:prime256v1", hsm.label)
    hsm.delete("pubkey", ID, hsm.label)


def private_keys(hsm: InProcessSoftHSM) -> int:
    return tool(hsm, hsm.label, "--list-objects", "--type", "privkey").count("Private Key Object")


@pytest.mark.parametrize("kind", ["privkey", "pubkey"])
def test_half_of_a_marked_key_is_replaced(hsm: InProcessSoftHSM, kind: str) -> None:
    hsm.generate(LABEL, ID, "EC:prime256v1", hsm.label)
    hsm.delete(kind, ID, hsm.label)
    assert enrol(hsm)
    assert private_keys(hsm) == 1
    assert not enrol(hsm)


def test_half_of_a_key_without_a_mark_stays_and_the_command_that_deletes_it_is_named(hsm: InProcessSoftHSM) -> None:
    half_made(hsm)
    with using(only_token(KeyURI.of(uri_of(hsm)))) as token:
        MakingMark(token, LABEL.encode()).remove()
    with pytest.raises(KeyMismatchError, match="has no public key for pkcs11:") as caught:
        enrol(hsm)
    assert f"run hwsigner delete '{uri_of(hsm)}'" in caught.value.hint
    with pytest.raises(SigningKeyError, match="already has: private key") as refused:
        generate_key(uri_of(hsm), pin="1234")
    command = re.search(r"hwsigner delete '(.*)'", refused.value.hint)
    assert command
    assert private_keys(hsm) == 1
    delete_key(command[1], lambda _: None, "1234")
    assert enrol(hsm)


def test_marked_key_that_another_program_imported_stays(hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    key = tmp_path / "key.der"
    openssl = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-outform", "DER"]
    subprocess.run([*openssl, "-out", str(key)], check=True, capture_output=True)
    pkcs11_tool(hsm, "--write-object", str(key), "--type", "privkey", "--label", LABEL, "--id", ID.hex())
    with pytest.raises(KeyMismatchError, match="has no public key"):
        enrol(hsm)
    with pytest.raises(SigningKeyError, match="already has: private key"):
        generate_key(uri_of(hsm), pin="1234")
    assert private_keys(hsm) == 1


def test_marked_key_that_another_program_made_whole_is_used_and_stays(hsm: InProcessSoftHSM) -> None:
    hsm.generate(LABEL, ID, "EC:prime256v1", hsm.label)
    with pytest.raises(SigningKeyError, match="already has: private key"):
        generate_key(uri_of(hsm), pin="1234")
    assert not enrol(hsm)
    hsm.delete("pubkey", ID, hsm.label)  # The mark is gone, because the key is in use.
    with pytest.raises(KeyMismatchError, match="has no public key"):
        enrol(hsm)
    assert private_keys(hsm) == 1


def test_half_of_a_marked_key_stays_when_it_has_a_certificate(hsm: InProcessSoftHSM) -> None:
    hsm.generate(LABEL, ID, "EC:prime256v1", hsm.label)
    public_key = hsm.public_key(ID, hsm.label)
    hsm.delete("pubkey", ID, hsm.label)
    certificate = certs.issue(certs.make_ca(), public_key)
    hsm.write_certificate(certificate.public_bytes(Encoding.DER), LABEL, ID, hsm.label)
    assert not enrol(hsm)
    assert private_keys(hsm) == 1


def test_description_of_half_a_key_says_that_it_is_not_whole(hsm: InProcessSoftHSM) -> None:
    half_made(hsm)
    with pytest.raises(SigningKeyError, match=r"private key \(label 'cut', id 07\) .* is not whole") as caught:
        describe_key(uri_of(hsm), "1234")
    assert "Run the same hwsigner enroll or keygen again" in caught.value.hint


def test_key_is_no_longer_marked_once_its_rest_was_deleted(hsm: InProcessSoftHSM) -> None:
    half_made(hsm)
    delete_key(uri_of(hsm), lambda _: None, "1234")
    half_made(hsm)
    with pytest.raises(KeyMismatchError, match="has no public key"):
        enrol(hsm)
    assert private_keys(hsm) == 1


@pytest.mark.parametrize("torn", [b"0", bytes(2), b"\xff"])
def test_torn_mark_is_none(hsm: InProcessSoftHSM, torn: bytes) -> None:
    half_made(hsm)
    [mark] = Path(os.environ["XDG_STATE_HOME"]).rglob("making-*")
    mark.write_bytes(torn)
    with pytest.raises(SigningKeyError, match="already has: private key"):
        generate_key(uri_of(hsm), pin="1234")
    assert private_keys(hsm) == 1


def test_key_is_no_longer_marked_once_it_is_made(hsm: InProcessSoftHSM) -> None:
    generate_key(uri_of(hsm), pin="1234")
    hsm.delete("pubkey", ID, hsm.label)
    assert management.describe_key(KeyURI.of(uri_of(hsm)), PinSource.of("1234")).public_key is None
