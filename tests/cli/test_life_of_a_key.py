"""From empty hardware to a role with hwsigner's commands alone: keygen, csr, install-certificate, credential-process.

The CA is openssl, and the service is the emulator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import certs
from backends.file.keyfiles import openssl
from emulators import InProcessSoftHSM
from hwsigner.config import profiles
from hwsigner.pins import sources as pin_sources
from scene import Outcome, Scene
from softhsm.command import run
from softhsm.tpm import SoftTPM
from softhsm.yubikey import YKCS11, YubiKey

MANAGEMENT_KEY = "0102030405060708" * 3


class Life:
    """The commands for one key, in a scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.csr, self.certificate = scene.folder / "web.csr", scene.folder / "issued.pem"
        self._ca, self._ca_key = scene.write("ca.pem", scene.ca.pem), scene.folder / "ca.key"
        certs.write_key(self._ca_key, scene.ca.key)

    def run(self, *arguments: str | Path) -> Outcome:
        """Run a command that must succeed, without a warning."""
        outcome = self.scene.call(*arguments)
        assert (outcome.status, outcome.err) == (0, ""), outcome
        return outcome

    def begin(
        self, uri: str, *flags: str, csr_uri: str = "", install_uri: str = "", install: tuple[str, ...] = ()
    ) -> None:
        """Make a key, get it a certificate, and write the profile `web`."""
        self.scene.call("profile", "add", "web", *self.scene.flags(certificate=None, private_key=None))
        self.run("keygen", uri, *flags)
        self.run("csr", csr_uri or uri, "--subject", "CN=web,OU=devops", "--out", self.csr)
        ca = ("-CA", str(self._ca), "-CAkey", str(self._ca_key), "-days", "9", "-copy_extensions", "copy")
        openssl("x509", "-req", "-in", str(self.csr), *ca, "-out", str(self.certificate))
        self.run("install-certificate", self.certificate, install_uri or uri, "--profile", "web", *install)

    def shown(self, *arguments: str) -> dict[str, Any]:
        """Return what show says of the key."""
        found: dict[str, Any] = json.loads(self.run("show", *arguments, "--json").out)
        return found


@pytest.fixture
def life(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(profiles, "SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    yield Life(scene)
    pin_sources.forget()


def check_role(life: Life) -> None:
    """Check that the profile gets credentials, and that show finds all of it to fit."""
    credentials = json.loads(life.run("credential-process", "--profile", "web").out)
    assert credentials["Version"] == 1
    shown = life.shown("--profile", "web")
    assert shown["certificate"]["matches"] is True
    assert shown["certificate"]["sessionTags"]["x509Subject/CN"] == "web"


def test_key_in_an_encrypted_file(life: Life, tmp_path: Path) -> None:
    pin = life.scene.write("passphrase", b"correct horse\n")
    key = tmp_path / "web.key"
    uri = f"file:{key}?pin-source=file:{pin}"
    life.begin(uri)
    check_role(life)
    life.run("delete", uri, "--yes")
    assert not key.exists()
    assert not key.with_suffix(".crt").exists()


def test_key_file_of_a_tpm(life: Life, swtpm: SoftTPM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM2_TCTI", swtpm.tcti)
    key = tmp_path / "web.tss2"
    pin = life.scene.write("pin", b"4711\n")
    uri = f"tpm2:path={key}?pin-source=file:{pin}"
    life.begin(uri)
    check_role(life)
    shown = life.shown(str(key))  # Without the PIN.
    assert (shown["algorithm"], shown["certificate"]["uri"]) == ("EC P-256", str(key.with_suffix(".crt")))
    assert (shown["properties"]["extractable"], shown["properties"]["pin"]) == (False, True)
    life.run("delete", uri, "--yes")
    assert not key.exists()


def test_key_at_a_handle_with_its_certificate_in_the_tpm(
    life: Life, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPM2_TCTI", swtpm.tcti)
    uri = "handle:0x81000abc"
    life.begin(uri, install=("--nv-index", "0x01500abc"))
    try:
        check_role(life)
        assert life.shown(uri)["certificate"]["uri"] == "tpm2:nv=0x01500abc"
        (tpm,) = json.loads(life.run("list", "tpm2:", "--json").out)["tokens"]
        assert "tpm2:nv=0x01500abc" in {one["uri"] for one in tpm["certificates"]}
        assert ["noDA"] in [key["notes"] for key in tpm["keys"] if "abc" in key["uri"]]
    finally:
        life.run("delete", uri, "--yes")
    assert b"1500ABC" not in run(["tpm2_getcap", "handles-nv-index"], swtpm.env).upper()


def test_key_on_a_token_with_its_chain(life: Life, softhsm: InProcessSoftHSM) -> None:
    pin = life.scene.write("pin", softhsm.pin.encode())
    uri = f"pkcs11:token={softhsm.label};object=web?module-path={softhsm.module}"
    with_pin = f"{uri}&pin-source=file:{pin}"
    life.begin(with_pin)
    check_role(life)
    shown = life.shown(with_pin)
    assert shown["properties"]["extractable"] is False
    assert shown["certificate"]["uri"].startswith(f"pkcs11:token={softhsm.label}")
    life.run("delete", with_pin, "--yes")
    assert life.scene.call("show", with_pin).status == 3


def test_key_in_a_slot_of_a_yubikey(life: Life, yubikey: YubiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    management, pin = life.scene.write("management", MANAGEMENT_KEY.encode()), life.scene.write("pin", b"123456")
    uri = yubikey.uri(0x82, YKCS11)
    managed = f"{uri}&pin-source=file:{management}"
    life.begin(managed, csr_uri=f"{uri}&pin-source=file:{pin}", install_uri=managed)
    tries = len(yubikey.pin_tries)
    shown = life.shown("--profile", "web")
    assert (shown["properties"]["pivSlot"], shown["certificate"]["matches"]) == ("82", True)
    assert len(yubikey.pin_tries) == tries  # No PIN was spent.
    monkeypatch.setenv("HWSIGNER_PIN", "123456")
    check_role(life)
    assert set(yubikey.pin_tries) == {0x9000}
    outcome = life.scene.call("delete", managed, "--yes")
    assert (outcome.status, "can't delete keys" in outcome.err) == (3, True)


def test_wrong_pin_is_spent_once(life: Life, softhsm: InProcessSoftHSM) -> None:
    pin = life.scene.write("pin", softhsm.pin.encode())
    uri = f"pkcs11:token={softhsm.label};object=once?module-path={softhsm.module}"
    life.begin(f"{uri}&pin-source=file:{pin}")
    wrong = life.scene.write("wrong", b"000000")
    outcome = life.scene.call("show", f"{uri}&pin-source=file:{wrong}")
    assert (outcome.status, outcome.out) == (3, "")
    outcome = life.scene.call("install-certificate", life.certificate, f"{uri}&pin-source=file:{wrong}")
    assert outcome.status == 3
    assert "an earlier" in outcome.err
