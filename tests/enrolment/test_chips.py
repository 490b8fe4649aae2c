"""Nodes whose TPM is cleared or replaced, which enrol again without a user. Their registrar proves each key's chip."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import certs
from attestation.chips import Vendor, vendors
from backends.tpm2.tpms import read_der
from enrolment.authority import NOW, Answer, certified
from enrolment.registrar.sites import Issuer, Site, tpm, url
from hwsigner import attestation
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.backends.pem import Block
from hwsigner.backends.tpm2.encode import write_tss2_pem
from hwsigner.backends.tpm2.key_file import TSS2Key
from hwsigner.enrolment.issuers import Issued
from hwsigner.key import open_key
from softhsm.command import run as run_tool
from softhsm.tpm import SoftTPM
from terminals import Terminal, terminal
from tpm_proxy import Fault, TPMProxy

__all__ = ["terminal", "vendors"]

pytestmark = pytest.mark.slow
SUBJECT = "CN=node-1,OU=pods"
LOAD = 0x157
STORAGE = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"
NAMES = ("node.crt", "node.tss2")


class LongerAndLonger(Issuer):
    """An issuer whose certificates end later each time, as `renew` demands."""

    def issue(self, request: CertificateRequest) -> Issued:
        self.requests.append(request.der)
        end = NOW + timedelta(days=2, hours=len(self.requests))
        return Issued((certified(self.ca, request, Answer(alternatives=(), end=end)),))


def ek(chip: SoftTPM) -> str:
    return hashlib.sha256(attestation.endorsement_key(f"tpm2:?tcti={chip.tcti}")).hexdigest()


@dataclass
class Node:
    """A machine with one TPM at a time, at one TCTI."""

    home: Path
    site: Site
    issuer: Issuer
    url: str
    chips: tuple[SoftTPM, SoftTPM]

    def has(self, chip: SoftTPM) -> None:
        """Build a TPM in, in place of the one that is there."""
        link = self.home / "tpm"
        link.unlink(missing_ok=True)
        link.symlink_to(chip.folder)

    @property
    def folder(self) -> Path:
        return self.home / "node"

    @property
    def key(self) -> Path:
        return self.folder / "node.tss2"

    @property
    def files(self) -> dict[str, bytes]:
        """The node's files, without locks and profile, and what is pinned."""
        pins = (self.home / "state").rglob("srk-*")
        found = [*(path for path in self.folder.iterdir() if path.is_file()), *pins]
        return {path.name: path.read_bytes() for path in found if path.name[0] != "."}

    @property
    def kept(self) -> list[str]:
        """The names of files that belong to another chip."""
        return sorted(name for name in self.files if name.startswith("node.000b"))

    @property
    def tcti(self) -> str:
        return f"swtpm:path={self.home / 'tpm' / 'socket'}"

    def enroll(self, *before: str, tcti: str = "", issuer: str = "registrar") -> subprocess.CompletedProcess[str]:
        """Run the command that the DaemonSet has, without a terminal."""
        flags = ["--no-aws-config", f"--private-key=tpm2:path={self.key}?tcti={tcti or self.tcti}"]
        flags += [f"--subject={SUBJECT}", f"--issuer={issuer}", f"--issuer-url={self.url}"]
        return self.command("enroll", "node", *flags, before=before)

    def command(self, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "XDG_CONFIG_HOME": str(self.folder), "XDG_STATE_HOME": str(self.home / "state")}
        command = [*before, sys.executable, "-m", "hwsigner", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environ, start_new_session=True)

    def works(self) -> None:
        """Check that key and certificate belong together, and that the TPM that is there signs with the key."""
        leaf = x509.load_pem_x509_certificate(self.key.with_suffix(".crt").read_bytes())
        with open_key(f"tpm2:path={self.key}?tcti={self.tcti}", allow_modules=True) as key:
            assert key.public_key() == leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert key.sign(b"message")


@pytest.fixture
def node(vendors: tuple[Vendor, Vendor], ca: certs.Authority, tmp_path: Path) -> Iterator[Node]:
    """A node that is enrolled with its first TPM. Its registrar allows both of its TPMs, one after the other."""
    with ExitStack() as stack:
        chips = [stack.enter_context(vendors[0].make(tmp_path / name)) for name in "ab"]
        issuer = LongerAndLonger(ca)
        site = Site(tmp_path, vendors[0].trust(), issuer)
        site.allow(tpm(ek(chips[0]), "node-1", SUBJECT))
        server = stack.enter_context(site.serving())
        node = Node(tmp_path, site, issuer, url(server), (chips[0], chips[1]))
        node.folder.mkdir(0o700)
        (tmp_path / "state").mkdir(0o700)
        node.has(chips[0])
        succeeds(node.enroll())
        yield node


def succeeds(ran: subprocess.CompletedProcess[str]) -> str:
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def allow(node: Node, chip: SoftTPM) -> None:
    node.site.allow(tpm(ek(chip), "node-1", SUBJECT))


def clear(chip: SoftTPM) -> None:
    run_tool(["tpm2_clear", "-c", "p"], chip.env)


def forget_parent(node: Node) -> None:
    """Make the key file one of before its parent was written into it."""
    lines = node.key.read_text().splitlines(keepends=True)
    assert lines[0].startswith("Parent's TPM Name: 000b")
    node.key.write_text("".join(lines[1:]))


def flush(chip: SoftTPM) -> None:
    """Do what a resource manager does for a killed process."""
    for kind in ("--transient-object", "--loaded-session", "--saved-session"):
        run_tool(["tpm2_flushcontext", kind], chip.env)


@pytest.mark.parametrize("is_old", [False, True], ids=["recorded", "pinned"])
class TestAnotherChip:
    def test_cleared_tpm_gets_a_new_key_and_keeps_the_old_one_aside(self, node: Node, is_old: bool) -> None:
        if is_old:
            forget_parent(node)
        old = node.files
        clear(node.chips[0])
        assert "The key of another TPM is now" in succeeds(node.enroll())
        node.works()
        assert node.files["node.tss2"] != old["node.tss2"]
        assert [node.files[name] for name in node.kept] == [old[name] for name in NAMES]
        assert [node.files[name] for name in old if "srk" in name] == [old[name] for name in old if "srk" in name]
        assert len(node.issuer.requests) == 2
        assert "already there" in succeeds(node.enroll())
        assert len(node.issuer.requests) == 2
        succeeds(node.command("renew", "node"))
        node.works()

    def test_new_mainboard_enrols_once_the_policy_has_its_tpm_and_the_old_one_comes_back(
        self, node: Node, is_old: bool
    ) -> None:
        if is_old:
            forget_parent(node)
        first, second = node.chips
        old = node.files
        node.has(second)
        refused = node.enroll()
        assert (refused.returncode, "does not give this chip" in refused.stderr) == (5, True), refused
        assert {name: node.files[name] for name in old} == old
        allow(node, second)
        succeeds(node.enroll())
        node.works()
        new = node.files
        node.has(first)
        succeeds(node.enroll())
        node.works()
        assert [node.files[name] for name in NAMES] == [old[name] for name in NAMES]
        assert [node.files[name] for name in node.kept] == [new[name] for name in NAMES]
        assert len(node.issuer.requests) == 2
        node.has(second)
        succeeds(node.enroll())
        node.works()
        assert [node.files[name] for name in NAMES] == [new[name] for name in NAMES]
        succeeds(node.command("renew", "node"))
        node.works()

    @pytest.mark.parametrize("call", ["/^link", "/^rename", "/^unlink", "fsync"])
    def test_swap_that_is_killed_goes_on_or_back_and_loses_no_key(self, node: Node, is_old: bool, call: str) -> None:
        if is_old:
            forget_parent(node)
        old, keys = node.files, {node.files["node.tss2"]}
        for number in range(1, 40):
            chip = node.chips[number % 2]
            node.has(chip)
            allow(node, chip)
            kill = ("strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}")
            killed = node.enroll(*kill)
            flush(chip)
            keys.add(node.files["node.tss2"])
            if killed.returncode == 0:
                break
            assert killed.returncode == -signal.SIGKILL
            assert keys <= set(node.files.values())
            if number % 3 == 0:  # The other chip returns before the killed run is repeated.
                chip = node.chips[(number + 1) % 2]
                node.has(chip)
                allow(node, chip)
            succeeds(node.enroll())
            node.works()
            assert keys <= set(node.files.values())
            assert len(node.kept) <= 4, node.kept  # A run that went back leaves second names of the same files.
        else:
            pytest.fail("each run was killed")
        assert number > 2
        assert old["node.tss2"] in node.files.values()


def test_new_mainboard_without_a_registrar_needs_a_user(node: Node) -> None:
    old = node.files
    node.has(node.chips[1])
    refused = node.enroll(issuer="est")
    assert refused.returncode == 3
    assert "is of another TPM" in refused.stderr
    assert "from a terminal, where it asks" in refused.stderr
    assert node.files == old


# FAILURE, VALUE, SIZE, HANDLE, RETRY, LOCKOUT, no answer, and half of one.
ANSWERS: tuple[Fault, ...] = (0x101, 0x1C4, 0x1D5, 0x18B, 0x922, 0x921, "cut", "half")
INTEGRITY = 0x1DF  # Of a damaged file, or of something between.


def answers_load(proxy: TPMProxy, fault: Fault) -> None:
    proxy.loses_handles = False
    proxy.decide = lambda command: fault if int.from_bytes(command[6:10]) == LOAD else "pass"


@pytest.mark.parametrize("is_old", [False, True], ids=["recorded", "pinned"])
def test_refusal_by_the_same_chip_changes_no_file(node: Node, is_old: bool, tmp_path: Path) -> None:
    if is_old:
        forget_parent(node)
    with TPMProxy(node.chips[0], tmp_path) as proxy:
        if is_old:  # Pins are for each TCTI.
            (pin,) = (path for path in (tmp_path / "state").rglob("srk-*") if path.name[0] != ".")
            digest = hashlib.sha256(proxy.tcti.encode()).hexdigest()[:16]
            pin.with_name(f"srk-{digest}").write_bytes(pin.read_bytes())
        old = node.files
        for fault in (*ANSWERS, INTEGRITY):
            answers_load(proxy, fault)
            refused = node.enroll(tcti=proxy.tcti)
            assert refused.returncode in (3, 4), refused
            assert {name: text for name, text in node.files.items() if name in old} == old, fault
            assert node.kept == []
            assert ("failed with key" in refused.stderr) is (fault == 0x101)


def test_other_refusal_than_integrity_by_another_chip_changes_no_file(node: Node, tmp_path: Path) -> None:
    old = node.files
    with TPMProxy(node.chips[1], tmp_path) as proxy:
        for fault in ANSWERS:
            answers_load(proxy, fault)
            assert node.enroll(tcti=proxy.tcti).returncode in (3, 4)
            assert node.files == old, fault


def test_key_that_the_chip_loads_stays_whatever_its_file_says_of_its_parent(node: Node) -> None:
    text = node.key.read_text()
    node.key.write_text(text.replace(text[:30], text[:26] + "ffff", 1))
    old = node.files
    assert "already there" in succeeds(node.enroll())
    assert node.files == old


def test_key_with_an_auth_value_stays(node: Node) -> None:
    node.key.unlink()
    node.key.with_suffix(".crt").unlink()
    pin = node.home / "pin"
    pin.write_text("right-4711")
    pin.chmod(0o600)
    uri = f"tpm2:path={node.key}?tcti={node.tcti}&pin-source={pin}"
    succeeds(node.command("keygen", uri))
    old = node.files
    node.has(node.chips[1])
    allow(node, node.chips[1])
    for key in (uri, uri.partition("&")[0]):
        refused = node.command("enroll", "node", f"--private-key={key}")
        assert refused.returncode == 3, refused
        assert node.files == old
    node.key.unlink()
    succeeds(node.command("enroll", "node", f"--private-key={uri}", "--accept-new-srk"))


def test_key_from_elsewhere_that_lies_beside_gets_no_certificate(node: Node) -> None:
    second = node.chips[1]
    node.has(second)
    assert node.enroll().returncode == 5
    (made,) = node.kept
    key = node.folder / made
    parent = node.home / "parent"
    run_tool(
        ["tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc256:aes128cfb", "-a", STORAGE, "-c", f"{parent}.ctx"],
        second.env,
    )
    run_tool(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{parent}.pem"], {})
    imported = ["tpm2_import", "-Q", "-C", f"{parent}.ctx", "-G", "ecc", "-i", f"{parent}.pem"]
    run_tool([*imported, "-u", f"{parent}.pub", "-r", f"{parent}.priv"], second.env)
    flush(second)
    parts = Path(f"{parent}.pub").read_bytes(), Path(f"{parent}.priv").read_bytes()
    key.write_text(write_tss2_pem(TSS2Key(True, 0x40000001, *parts)))
    allow(node, second)
    old, issued = node.files, len(node.issuer.requests)
    refused = node.enroll()
    assert (refused.returncode, "was not made in the TPM" in refused.stderr) == (3, True), refused
    assert (node.files, len(node.issuer.requests)) == (old, issued)


@pytest.mark.parametrize("answer", ["no", "yes"])
def test_user_is_asked_before_a_key_is_set_aside(node: Node, terminal: Terminal, answer: str) -> None:
    old = node.files
    clear(node.chips[0])
    environ = {"HOME": str(node.home), "XDG_CONFIG_HOME": str(node.folder), "XDG_STATE_HOME": str(node.home / "state")}
    process = terminal.start(sys.executable, "-m", "hwsigner", "enroll", "node", "--no-aws-config", **environ)
    shown = terminal.shown_until("Type yes to set it aside: ")
    assert f"key {node.key} is of another TPM" in shown
    terminal.type(answer.encode() + b"\n")
    output, errors = process.communicate(timeout=60)
    if answer == "yes":
        assert (process.returncode, errors) == (0, b"")
        assert b"is now" in output
        node.works()
    else:
        assert (process.returncode, b"the key stays in place" in errors) == (1, True)
        assert node.files == old


def test_new_mainboard_may_have_a_storage_root_key_of_another_kind(node: Node) -> None:
    second = node.chips[1]
    context = str(node.home / "srk.ctx")
    run_tool(["tpm2_createprimary", "-Q", "-C", "o", "-G", "rsa2048", "-c", context], second.env)
    run_tool(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", context, "0x81000001"], second.env)
    flush(second)
    node.has(second)
    allow(node, second)
    succeeds(node.enroll())
    node.works()
    succeeds(node.command("renew", "node"))
    node.works()


def test_damaged_file_is_not_of_another_chip_if_a_storage_root_key_was_made_since(node: Node) -> None:
    forget_parent(node)
    chip, context = node.chips[0], str(node.home / "srk.ctx")
    run_tool(["tpm2_createprimary", "-Q", "-C", "o", "-G", "rsa2048", "-c", context], chip.env)
    run_tool(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", context, "0x81000001"], chip.env)
    flush(chip)
    der = bytearray(read_der(node.key))
    der[-1] ^= 1
    node.key.write_bytes(Block("TSS2 PRIVATE KEY", bytes(der)).pem)
    old = node.files
    refused = node.enroll()
    assert (refused.returncode, "does not accept key" in refused.stderr) == (3, True), refused
    assert node.files == old
