"""`hwsigner csr`: requests of keys in files, tokens and TPMs, and from there to credentials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import certs
from backends.file.keyfiles import openssl
from emulators import InProcessSoftHSM
from hwsigner._cli import csr
from hwsigner._identity.certificate_request import CertificateRequest, sign_certificate_request
from hwsigner._system import users
from hwsigner.key.management import generate_key
from judges import needs_linux
from scene import Outcome, Scene
from softhsm.tpm import SoftTPM

SUBJECT = ("--subject", "CN=bamboo-01,OU=devops")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key in a file."""
    path = tmp_path / "web.key"
    generate_key(str(path))
    return path


def verified(pem: str) -> str:
    """Return the subject that openssl shows of a request, once it has verified its signature."""
    flags = ("-verify", "-noout", "-subject", "-nameopt", "RFC2253")
    ran = subprocess.run(["openssl", "req", *flags], input=pem, capture_output=True, text=True, check=True)
    assert "self-signature verify OK" in ran.stdout + ran.stderr
    return ran.stdout.splitlines()[-1].removeprefix("subject=")


def certified(scene: Scene, pem: str) -> Path:
    """Have openssl issue a certificate by the scene's CA as requested, and return its path."""
    ca, signer = scene.write("ca.pem", scene.ca.pem), certs.write_key(scene.folder / "ca.key", scene.ca.key)
    flags = ("-CA", str(ca), "-CAkey", str(signer), "-copy_extensions", "copy", "-days", "2")
    return scene.write("certified.pem", openssl("x509", "-req", *flags, data=pem.encode()))


@pytest.mark.root
def test_link_of_another_user_is_not_followed_by_root(scene: Scene, key: Path) -> None:
    link, target = scene.folder / "web.csr", scene.folder / "new"
    link.symlink_to(target)
    os.chown(link, 12345, -1, follow_symlinks=False)
    outcome = scene.call("csr", key, *SUBJECT, "--out", link)
    assert (outcome.status, outcome.out, target.exists()) == (1, "", False)
    assert f"{link} is a link of user 12345. Give the path that it leads to" in outcome.err


class TestKeys:
    def test_file_key_goes_from_nothing_to_credentials(self, scene: Scene) -> None:
        path = scene.folder / "new.key"
        assert scene.call("keygen", path).status == 0
        outcome = scene.call("csr", path, *SUBJECT, "--dns", "bamboo-01.example.com")
        assert (outcome.status, outcome.err) == (0, "")
        assert verified(outcome.out) == "CN=bamboo-01,OU=devops"
        leaf = certified(scene, outcome.out)
        assert json.loads(scene.credentials(certificate=leaf, private_key=path).out)["Version"] == 1

    @needs_linux
    @pytest.mark.root
    def test_key_file_is_shared_with_the_system_s_agent(
        self, call: Callable[..., Outcome], key: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(users, "agent_group", lambda: 12345)
        for flags, group, mode in (((), 0, 0o600), (("--system",), 12345, 0o640)):
            assert call("csr", key, *SUBJECT, *flags).status == 0
            assert (key.stat().st_gid, key.stat().st_mode & 0o777) == (group, mode)

    @pytest.mark.parametrize(("label", "kind"), [("csr-ec", "EC:secp384r1"), ("csr-rsa", "rsa:2048")])
    def test_token_key_signs_its_request(self, scene: Scene, softhsm: InProcessSoftHSM, label: str, kind: str) -> None:
        number = label.encode()
        softhsm.generate(label, number, kind)
        softhsm.reload()
        uri = softhsm.uri(label, scene.write("pin", b"1234\n"))
        outcome = scene.call("csr", uri, *SUBJECT)
        assert (outcome.status, outcome.err) == (0, "")
        assert verified(outcome.out) == "CN=bamboo-01,OU=devops"
        leaf = certified(scene, outcome.out)
        assert scene.credentials(certificate=leaf, private_key=uri).status == 0

    @pytest.mark.parametrize("kind", ["EC:P-256", "RSA:2048"])
    def test_tpm_key_signs_its_request(self, scene: Scene, swtpm: SoftTPM, kind: str) -> None:
        path = scene.folder / "tss2.pem"
        swtpm.create_key_file(path, kind)
        outcome = scene.call("csr", path, *SUBJECT, "--tcti", swtpm.tcti)
        assert (outcome.status, outcome.err) == (0, "")
        assert verified(outcome.out) == "CN=bamboo-01,OU=devops"
        leaf = certified(scene, outcome.out)
        assert scene.credentials("--tcti", swtpm.tcti, certificate=leaf, private_key=path).status == 0


class TestNames:
    def test_names_are_repeatable(self, call: Callable[..., Outcome], key: Path) -> None:
        outcome = call("csr", key, *SUBJECT, "--dns=a.example", "--dns=b.example", "--uri=spiffe://x/y")
        text = openssl("req", "-noout", "-text", data=outcome.out.encode()).decode()
        assert "DNS:a.example, DNS:b.example, URI:spiffe://x/y" in text

    def test_name_that_can_t_become_a_session_tag_causes_a_warning(
        self, call: Callable[..., Outcome], key: Path
    ) -> None:
        outcome = call("csr", key, "--subject", "CN=R&D,OU=fine", "--dns", "*.example")
        assert outcome.status == 0
        assert verified(outcome.out) == "CN=R&D,OU=fine"
        assert [line.split(", and")[0] for line in outcome.err.splitlines()] == [
            "hwsigner: warning: x509Subject/CN is 'R&D'",
            "hwsigner: warning: x509SAN/DNS is '*.example'",
        ]
        strict = call("csr", key, "--subject", "CN=R&D", "--strict")
        assert (strict.status, strict.out) == (1, "")

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ((), "no subject was given"),
            (("--subject=",), "no subject was given"),
            (("--subject", "CN="), "CN has an empty value"),
            (("--subject", "CN"), "is not TYPE=value"),
            (("--subject", "/CN=a"), "Write CN=a"),
            ((*SUBJECT, "--dns", "a b"), "is not a DNS name"),
            ((*SUBJECT, "--uri", "nothing"), "is not a URI"),
        ],
    )
    def test_invalid_name_is_an_error_before_the_key_is_opened(
        self, call: Callable[..., Outcome], flags: tuple[str, ...], message: str
    ) -> None:
        outcome = call("csr", "/nonexistent", *flags)
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert message in outcome.err


class TestFile:
    def test_request_is_written_and_replaced(self, call: Callable[..., Outcome], key: Path, tmp_path: Path) -> None:
        for name in ("one", "two"):
            assert call("csr", key, "--subject", f"CN={name}", "--out", tmp_path / "csr") == Outcome(0, "", "")
            assert verified((tmp_path / "csr").read_text()) == f"CN={name}"

    @pytest.mark.parametrize("content", ["the key", "text", "request and key", "text and request"])
    def test_other_file_is_not_overwritten(
        self, call: Callable[..., Outcome], key: Path, tmp_path: Path, content: str
    ) -> None:
        path = key if content == "the key" else tmp_path / "other"
        pem = call("csr", key, *SUBJECT).out
        other = {"text": "notes", "request and key": pem + key.read_text(), "text and request": f"notes\n{pem}"}
        if content in other:
            path.write_text(other[content])
        before = path.read_bytes()
        outcome = call("csr", key, *SUBJECT, "--out", path)
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.err.startswith(f"hwsigner: {path} is there already, and is not a certificate request")
        assert path.read_bytes() == before

    def test_file_that_appears_while_the_key_is_used_is_not_overwritten(
        self, call: Callable[..., Outcome], key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sign(*arguments: Any, **names: Any) -> CertificateRequest:
            (tmp_path / "out").write_text("notes")
            return sign_certificate_request(*arguments, **names)

        monkeypatch.setattr(csr, "sign_certificate_request", sign)
        outcome = call("csr", key, *SUBJECT, "--out", tmp_path / "out")
        assert outcome.status == 1
        assert "is not a certificate request" in outcome.err
        assert (tmp_path / "out").read_text() == "notes"

    @pytest.mark.parametrize("out", ["folder", "folder/none/csr"])
    def test_file_that_can_t_be_written_is_named(
        self, call: Callable[..., Outcome], key: Path, tmp_path: Path, out: str
    ) -> None:
        (tmp_path / "folder").touch() if "/" in out else (tmp_path / "folder").mkdir()
        outcome = call("csr", key, *SUBJECT, "--out", tmp_path / out)
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (1, "", 1)
        assert str(tmp_path / "folder") in outcome.err

    def test_device_is_refused_unread(self, call: Callable[..., Outcome], key: Path) -> None:
        """Reading /dev/full never ends."""
        outcome = call("csr", key, *SUBJECT, "--out", "/dev/full")
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.err.startswith("hwsigner: /dev/full is not a regular file")

    def test_pipe_is_refused_by_the_name_that_was_given(self, key: Path) -> None:
        command = [sys.executable, "-m", "hwsigner", "csr", str(key), *SUBJECT, "--out", "/dev/stdout"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("hwsigner: /dev/stdout is not a regular file. ")

    def test_written_request_is_named_when_stdout_is_full(self, key: Path, tmp_path: Path) -> None:
        out = tmp_path / "web.csr"
        command = [sys.executable, "-m", "hwsigner", "csr", str(key), *SUBJECT, "--out", str(out), "--json"]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        problem = f"hwsigner: {out} was written, but stdout can't be written: No space left on device. "
        assert (done.returncode, done.stderr) == (1, f"{problem}Check where the output goes\n")
        assert verified(out.read_text()) == "CN=bamboo-01,OU=devops"

    def test_missing_key_writes_nothing(self, call: Callable[..., Outcome], tmp_path: Path) -> None:
        assert call("csr", tmp_path / "none", *SUBJECT, "--out", tmp_path / "csr").status == 3
        assert not list(tmp_path.iterdir())
