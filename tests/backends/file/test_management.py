"""The life of a key in a file: made, described, certified and deleted; judged by openssl."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

import certs
from backends.file.keyfiles import openssl
from hwsigner._pins import AskPin
from hwsigner._pins import sources as pin_sources
from hwsigner._system.files import edit_file
from hwsigner.backends import key_files
from hwsigner.backends.pem import read_blocks
from hwsigner.errors import (
    CertificateError,
    HwsignerError,
    PinError,
    SigningKeyError,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.key import FoundCertificate, find_certificates, open_key
from hwsigner.key.management import (
    KeyAlgorithm,
    KeyRequest,
    delete_key,
    describe_key,
    generate_key,
    install_certificate,
)
from hwsigner.key.public_key import kind_of, verify
from judges import needs_openssl_3_5, needs_strace

KINDS: dict[KeyAlgorithm, str] = {
    "p256": "EC P-256",
    "p384": "EC P-384",
    "p521": "EC P-521",
    "rsa2048": "RSA 2048",
    "rsa3072": "RSA 3072",
    "rsa4096": "RSA 4096",
    "mldsa44": "ML-DSA-44",
    "mldsa65": "ML-DSA-65",
    "mldsa87": "ML-DSA-87",
}
MLDSA: list[KeyAlgorithm] = ["mldsa44", "mldsa65", "mldsa87"]


@pytest.fixture(autouse=True)
def forget_pins() -> Iterator[None]:
    yield
    pin_sources.forget()


def agree(_: object) -> None:
    """Agree to any deletion."""


def leaf_for(path: Path, ca: certs.Authority, pin: str | None = None) -> list[FoundCertificate]:
    """Return a chain of a leaf for a key and the CA above it."""
    public_key = describe_key(str(path), pin).public_key
    assert public_key
    leaf = certs.issue(ca, load_der_public_key(public_key))
    return [FoundCertificate(one.public_bytes(Encoding.DER), "given") for one in (leaf, ca.certificate)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm", [pytest.param(one, marks=needs_openssl_3_5) if one in MLDSA else one for one in KINDS]
)
def test_new_key_signs_and_openssl_reads_it(tmp_path: Path, algorithm: KeyAlgorithm) -> None:
    path = tmp_path / "web.key"
    made = generate_key(str(path), KeyRequest(algorithm))
    assert (made.uri, made.place) == (str(path), f"the file {path}")
    assert made.public_key
    assert kind_of(made.public_key) == KINDS[algorithm]
    assert openssl("pkey", "-in", str(path), "-pubout", "-outform", "DER") == made.public_key
    with open_key(str(path)) as key:
        assert verify(made.public_key, b"message", signature=key.sign(b"message"))
    assert path.stat().st_mode & 0o7777 == 0o600
    assert made.properties == {"extractable": True, "encrypted": False, "mode": "0600"}
    assert "It is not encrypted" in made.guards
    assert any("copy" in note for note in made.notes)
    assert os.listdir(tmp_path) == ["web.key"]


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
@pytest.mark.parametrize("algorithm", MLDSA)
def test_file_of_a_new_ml_dsa_key_has_the_seed_alone(
    tmp_path: Path, algorithm: KeyAlgorithm, passphrase: str | None
) -> None:
    path = tmp_path / "web.key"
    made = generate_key(str(path), KeyRequest(algorithm), passphrase)
    assert (b"BEGIN ENCRYPTED PRIVATE KEY" if passphrase else b"BEGIN PRIVATE KEY") in path.read_bytes()
    loaded: Any = load_pem_private_key(path.read_bytes(), passphrase.encode() if passphrase else None)
    plain = loaded.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert plain[-34:] == b"\x80\x20" + loaded.private_bytes_raw()  # [0] IMPLICIT OCTET STRING (SIZE (32)).
    assert passphrase or plain == read_blocks(path.read_bytes())[0].data
    assert made.public_key == loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@needs_openssl_3_5
@pytest.mark.parametrize("form", ["seed-only", "priv-only", "seed-priv", "bare-seed", "bare-priv"])
def test_openssl_converts_a_new_ml_dsa_key_into_each_form_and_it_is_the_same_key(tmp_path: Path, form: str) -> None:
    path, other = tmp_path / "web.key", tmp_path / "other.key"
    made = generate_key(str(path), KeyRequest("mldsa65"), "old horse")
    convert = ["pkcs8", "-topk8", "-in", str(path), "-passin", "pass:old horse", "-passout", "pass:new horse"]
    openssl(*convert, "-out", str(other), "-provparam", f"ml-dsa.output_formats={form}")
    with open_key(str(other), "new horse") as key:
        assert key.public_key() == made.public_key
        assert verify(made.public_key or b"", b"message", signature=key.sign(b"message"))
    with pytest.raises(WrongPinError):
        open_key(str(other), "old horse")


def test_ml_dsa_key_is_refused_when_the_openssl_of_cryptography_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack() -> None:
        raise UnsupportedAlgorithm("ML-DSA is not supported by this backend.")

    monkeypatch.setattr(mldsa.MLDSA44PrivateKey, "generate", lack)
    with pytest.raises(UnsupportedKeyError, match="OpenSSL that the Python library cryptography uses") as refused:
        generate_key(str(tmp_path / "web.key"), KeyRequest("mldsa44"))
    assert "--algorithm" in refused.value.hint
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("given", ["pin", "callable", "pin-value", "HWSIGNER_PIN"])
def test_new_key_is_encrypted_if_there_is_a_passphrase(
    tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, secret = tmp_path / "web.key", "correct horse ü"
    uri = f"file:{path}?pin-value={secret}" if given == "pin-value" else str(path)
    if given == "HWSIGNER_PIN":
        monkeypatch.setenv("HWSIGNER_PIN", secret)
    pins: dict[str, str | AskPin] = {"pin": secret, "callable": lambda _: secret}
    made = generate_key(uri, None, pins.get(given))
    assert made.properties["encrypted"] is True
    assert "It is encrypted with a passphrase" in made.guards
    assert made.uri == str(path)
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    shown = openssl("pkey", "-in", str(path), "-passin", f"pass:{secret}", "-pubout", "-outform", "DER")
    assert shown == made.public_key
    with pytest.raises(WrongPinError):
        describe_key(str(path), "wrong")


@pytest.mark.parametrize("secret", ["", "x" * 1024])
def test_passphrase_that_openssl_would_not_take_is_refused(tmp_path: Path, secret: str) -> None:
    with pytest.raises(PinError, match="does not have 1 to 1023 bytes"):
        generate_key(str(tmp_path / "web.key"), None, secret)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("taken", ["file", "empty", "folder", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, taken: str) -> None:
    path = tmp_path / "web.key"
    if taken == "folder":
        path.mkdir()
    elif taken == "dangling link":
        path.symlink_to("nowhere")
    else:
        path.write_text("old" if taken == "file" else "")
    with pytest.raises(SigningKeyError, match="is there already") as refused:
        generate_key(str(path))
    assert refused.value.hint.startswith("Name a file in that folder" if taken == "folder" else "Name a new file, or")
    assert os.listdir(tmp_path) == ["web.key"]
    assert not path.is_file() or path.read_text() in ("old", "")


def test_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "web.key", os.link

    def link_late(*arguments: object, **named: object) -> None:
        path.write_text("other's")
        link(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link_late)
    with pytest.raises(SigningKeyError, match="is there already"):
        generate_key(str(path))
    assert (os.listdir(tmp_path), path.read_text()) == (["web.key"], "other's")


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SigningKeyError, match="No space left on device"):
        generate_key(str(tmp_path / "web.key"))
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("call", "number"), [("fsync", 1), ("linkat", 1), ("fsync", 2)])
@needs_strace
def test_killed_process_leaves_all_of_the_key_or_none_and_nothing_beside_it(
    tmp_path: Path, call: str, number: int
) -> None:
    path = tmp_path / "web.key"
    keygen = [sys.executable, "-m", "hwsigner", "keygen", str(path)]
    kill = ["strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
    assert subprocess.run([*kill, *keygen], capture_output=True).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == (["web.key"] if number == 2 else [])
    if path.exists():
        assert describe_key(str(path)).properties["mode"] == "0600"
    else:
        assert generate_key(str(path)).public_key == describe_key(str(path)).public_key
        assert os.listdir(tmp_path) == ["web.key"]
    delete_key(str(path), agree)
    assert os.listdir(tmp_path) == []


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match=r"there is no folder .*/no for the new key"):
        generate_key(str(tmp_path / "no" / "web.key"))


@pytest.mark.parametrize(
    ("request_", "flag"),
    [
        (KeyRequest(always_authenticate=True), "--always-authenticate"),
        (KeyRequest(accept_unproven=True), "--accept-unproven"),
        (KeyRequest(pin_policy="once"), "--pin-policy"),
        (KeyRequest(touch_policy="always"), "--touch-policy"),
        (KeyRequest(noda=False), "--noda"),
        (KeyRequest(pcrs="sha256:7"), "--pcrs"),
        (KeyRequest(overwrite=True), "--overwrite"),
    ],
)
def test_request_that_a_file_can_t_meet_is_refused(tmp_path: Path, request_: KeyRequest, flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} does not apply to keys in files"):
        generate_key(str(tmp_path / "web.key"), request_)
    assert os.listdir(tmp_path) == []


def test_description_names_a_file_whose_path_looks_like_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = generate_key("file:handle:0x81000001")
    assert made.uri == "file:handle%3A0x81000001"
    assert describe_key(made.uri).public_key == made.public_key


def test_description_keeps_where_the_passphrase_is(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("correct horse")
    made = generate_key(f"file:{tmp_path}/web.key?pin-source=file:{secret}")
    assert made.uri == f"file:{tmp_path}/web.key?pin-source=file:{secret}"
    assert describe_key(made.uri).public_key == made.public_key


class TestCertificate:
    def test_chain_is_written_beside_the_key_and_replaced(self, tmp_path: Path, ca: certs.Authority) -> None:
        path = tmp_path / "web.key"
        generate_key(str(path))
        for _ in range(2):
            chain = leaf_for(path, ca)
            installed = install_certificate(str(path), chain)
            assert (installed.certificate, installed.intermediates) == (str(tmp_path / "web.crt"), "")
            assert [found.der for found in find_certificates(installed.certificate)] == [one.der for one in chain]
        openssl("x509", "-in", installed.certificate, "-noout")
        assert (tmp_path / "web.crt").stat().st_mode & 0o7777 == 0o644

    @pytest.mark.parametrize(("key", "certificate"), [("web", "web.crt"), ("web.crt", "web.crt.crt")])
    def test_certificate_never_has_the_key_s_own_path(
        self, tmp_path: Path, ca: certs.Authority, key: str, certificate: str
    ) -> None:
        generate_key(str(tmp_path / key))
        installed = install_certificate(str(tmp_path / key), leaf_for(tmp_path / key, ca))
        assert installed.certificate == str(tmp_path / certificate)
        assert stat.S_IMODE(os.stat(installed.certificate).st_mode) == 0o644  # As beside a TPM's key file.

    @pytest.mark.parametrize("other", ["another key's", "text", "certificate and key"])
    def test_other_file_is_not_replaced(self, tmp_path: Path, ca: certs.Authority, other: str) -> None:
        path, beside = tmp_path / "web.key", tmp_path / "web.crt"
        generate_key(str(path))
        chain = leaf_for(path, ca)
        if other == "text":
            beside.write_text("notes")
        elif other == "another key's":
            beside.write_bytes(ca.pem)
        else:
            install_certificate(str(path), chain)
            beside.write_bytes(beside.read_bytes() + path.read_bytes())
        before = beside.read_bytes()
        with pytest.raises(CertificateError, match=r"web\.crt is there already"):
            install_certificate(str(path), chain)
        assert beside.read_bytes() == before

    def test_pipe_in_the_certificate_s_place_is_an_error(self, tmp_path: Path, ca: certs.Authority) -> None:
        path = tmp_path / "web.key"
        generate_key(str(path))
        chain = leaf_for(path, ca)
        os.mkfifo(tmp_path / "web.crt")
        with pytest.raises(SigningKeyError, match=r"web\.crt is not a regular file"):
            install_certificate(str(path), chain)
        assert delete_key(str(path), agree) == (f"the key in {path}",)

    def test_file_that_appears_at_the_last_moment_is_not_replaced(
        self, tmp_path: Path, ca: certs.Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def edit(path: str, change: Callable[[bytes], bytes], **options: int) -> None:
            Path(path).write_text("notes")
            edit_file(path, change, **options)

        path = tmp_path / "web.key"
        generate_key(str(path))
        chain = leaf_for(path, ca)
        monkeypatch.setattr(key_files, "edit_file", edit)
        with pytest.raises(CertificateError, match=r"web\.crt is there already"):
            install_certificate(str(path), chain)
        assert (tmp_path / "web.crt").read_text() == "notes"

    def test_old_certificate_stays_if_the_new_one_can_t_be_written(
        self, tmp_path: Path, ca: certs.Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "web.key"
        generate_key(str(path))
        install_certificate(str(path), leaf_for(path, ca))
        before = (tmp_path / "web.crt").read_bytes()
        chain = leaf_for(path, ca)

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "rename", full)
        with pytest.raises(SigningKeyError, match="No space left on device"):
            install_certificate(str(path), chain)
        assert (tmp_path / "web.crt").read_bytes() == before

    def test_nv_index_is_refused(self, tmp_path: Path, ca: certs.Authority) -> None:
        generate_key(str(tmp_path / "web.key"))
        with pytest.raises(UsageError, match="--nv-index does not apply to keys in files"):
            install_certificate(str(tmp_path / "web.key"), leaf_for(tmp_path / "web.key", ca), nv_index="0x01c20000")


class TestDeletion:
    def test_key_and_its_certificate_are_named_and_deleted(self, tmp_path: Path, ca: certs.Authority) -> None:
        path, asked = tmp_path / "web.key", list[str]()
        generate_key(str(path), None, "secret")
        install_certificate(str(path), leaf_for(path, ca, "secret"), "secret")
        gone = delete_key(str(path), lambda lines: asked.extend(lines), "secret")
        assert gone == (f"the key in {path}", f"its certificate in {tmp_path}/web.crt")
        assert tuple(asked) == gone
        assert not path.exists()
        assert not (tmp_path / "web.crt").exists()

    def test_another_key_s_certificate_stays(self, tmp_path: Path, ca: certs.Authority) -> None:
        path = tmp_path / "web.key"
        generate_key(str(path))
        (tmp_path / "web.crt").write_bytes(ca.pem)
        assert delete_key(str(path), agree) == (f"the key in {path}",)
        assert os.listdir(tmp_path) == ["web.crt"]

    def test_refusal_keeps_everything(self, tmp_path: Path) -> None:
        def keep(_: object) -> None:
            raise HwsignerError("no")

        generate_key(str(tmp_path / "web.key"))
        with pytest.raises(HwsignerError, match="no"):
            delete_key(str(tmp_path / "web.key"), keep)
        assert os.listdir(tmp_path) == ["web.key"]

    def test_link_s_target_is_deleted_not_the_link_alone(self, tmp_path: Path) -> None:
        generate_key(str(tmp_path / "web.key"))
        (tmp_path / "link").symlink_to("web.key")
        assert delete_key(str(tmp_path / "link"), agree) == (f"the key in {tmp_path}/web.key",)
        assert os.listdir(tmp_path) == ["link"]

    def test_file_without_a_key_is_not_deleted(self, tmp_path: Path, ca: certs.Authority) -> None:
        (tmp_path / "ca.pem").write_bytes(ca.pem)
        with pytest.raises(SigningKeyError, match="no private key"):
            delete_key(str(tmp_path / "ca.pem"), agree)
        assert os.listdir(tmp_path) == ["ca.pem"]

    def test_file_that_was_replaced_while_the_user_was_asked_stays(self, tmp_path: Path) -> None:
        path, other = tmp_path / "web.key", tmp_path / "other.key"
        generate_key(str(path))
        generate_key(str(other))
        with pytest.raises(SigningKeyError, match=r"web\.key was replaced meanwhile, so nothing was deleted"):
            delete_key(str(path), lambda _: os.replace(other, path))
        assert path.exists()

    def test_file_of_another_folder_stays_when_a_link_took_its_folder_s_place(self, tmp_path: Path) -> None:
        for folder in ("shared", "own"):
            (tmp_path / folder).mkdir()
            generate_key(str(tmp_path / folder / "web.key"))

        def swap(_: object) -> None:
            (tmp_path / "shared").rename(tmp_path / "moved")
            (tmp_path / "shared").symlink_to("own")

        with pytest.raises(SigningKeyError, match=r"web\.key was replaced meanwhile"):
            delete_key(str(tmp_path / "shared" / "web.key"), swap)
        assert (tmp_path / "own" / "web.key").exists()

    def test_file_that_can_t_be_deleted_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        generate_key(str(tmp_path / "web.key"))
        monkeypatch.setattr(os, "unlink", refuse)
        with pytest.raises(SigningKeyError, match=r"can't delete the key in .*web.key: Permission denied"):
            delete_key(str(tmp_path / "web.key"), agree)


def test_foreign_key_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "both.p12"
    key, leaf = str(tmp_path / "web.key"), str(tmp_path / "web.crt")
    generate_key(key)
    openssl("req", "-x509", "-key", key, "-subj", "/CN=web", "-out", leaf)
    openssl("pkcs12", "-export", "-in", leaf, "-inkey", key, "-passout", "pass:x", "-out", str(path))
    path.chmod(0o600)
    assert describe_key(str(path), "x").properties == {"extractable": True, "encrypted": None, "mode": "0600"}
