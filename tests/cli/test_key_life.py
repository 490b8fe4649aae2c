"""From empty hardware to a role, a renewal and nothing again, with hwsigner's commands alone.

The CA is openssl, and the service is the emulator. What the keys are is read with other tools.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import certs
import judges
from backends.file.keyfiles import openssl
from backends.pkcs11.tokens import plain_ids
from emulators import InProcessSoftHSM
from hwsigner._config import profiles
from hwsigner._pins import sources as pin_sources
from scene import Outcome, Scene
from softhsm.command import ToolError, run
from softhsm.pcsc import SoftPcsc
from softhsm.tpm import SoftTPM
from softhsm.yubikey import FIRMWARE_5_4, FIRMWARE_5_7, YKCS11, YubiKey
from yubikeys import forget_cards

MANAGEMENT_KEY = "0102030405060708" * 3
HANDLE, INDEX = "0x81000abc", "0x01500abc"


class Life:
    """The commands for one key, in a scene.

    Attributes:
        scene: the scene.
        certificate: the path of the certificate that was issued last.
    """

    def __init__(self, scene: Scene, patch: pytest.MonkeyPatch) -> None:
        self.scene = scene
        self._patch = patch
        self.certificate = scene.folder / "issued.pem"
        self._ca, self._ca_key = scene.write("ca.pem", scene.ca.pem), scene.folder / "ca.key"
        certs.write_key(self._ca_key, scene.ca.key)
        scene.call("profile", "add", "web", *scene.flags(certificate=None, private_key=None))

    def run(self, *arguments: str | Path) -> Outcome:
        """Run a command that must succeed, without a warning."""
        outcome = self.scene.call(*arguments)
        assert (outcome.status, outcome.err) == (0, ""), outcome
        return outcome

    def refuse(self, *arguments: str | Path) -> str:
        """Run a command that must fail with a problem of the key, and return its one line of error."""
        outcome = self.scene.call(*arguments)
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (3, "", 1), outcome
        return outcome.err

    def make(self, uri: str, *flags: str) -> str:
        """Make a key, check that doing so again is refused, and return the key's URI."""
        made: dict[str, Any] = json.loads(self.run("keygen", uri, *flags, "--json").out)
        assert made["properties"]["extractable"] is False
        assert any(word in self.refuse("keygen", uri, *flags) for word in ("already", "is there"))
        return str(made["uri"])

    def certify(self, uri: str, name: str, *install: str, into: str = "") -> None:
        """Get the key at `uri` a certificate, install it with that URI or `into`, and get credentials with it."""
        csr = self.scene.folder / f"{name}.csr"
        self.run("csr", uri, "--subject", f"CN={name},OU=devops", "--out", csr)
        ca = ("-CA", str(self._ca), "-CAkey", str(self._ca_key), "-days", "9", "-copy_extensions", "copy")
        openssl("x509", "-req", "-in", str(csr), *ca, "-out", str(self.certificate))
        self.run("install-certificate", self.certificate, into or uri, "--profile", "web", *install)
        if into:  # That URI's PIN is for the card's owner. Each command clears this one.
            self._patch.setenv("HWSIGNER_PIN", YubiKey.pin)
        assert json.loads(self.run("credential-process", "--profile", "web").out)["Version"] == 1
        certificate = self.shown("--profile", "web")["certificate"]
        assert (certificate["matches"], certificate["warnings"]) == (True, [])
        assert certificate["sessionTags"]["x509Subject/CN"] == name

    def live(self, uri: str, *install: str, flags: tuple[str, ...] = ()) -> str:
        """Make a key, certify it twice, and return its URI."""
        made = self.make(uri, *flags)
        for name in ("first", "renewed"):
            self.certify(made, name, *install)
        return made

    def die(self, uri: str) -> None:
        """Delete the key, and check that it is gone."""
        self.run("delete", uri, "--yes")
        self.refuse("show", uri)
        self.refuse("delete", uri, "--yes")

    def shown(self, *arguments: str) -> dict[str, Any]:
        """Return what show says of the key."""
        found: dict[str, Any] = json.loads(self.run("show", *arguments, "--json").out)
        return found


@pytest.fixture
def life(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HWSIGNER_AGENT", "none")
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "etc" / "config.toml"))
    yield Life(scene, monkeypatch)
    pin_sources.forget()


def test_key_in_an_encrypted_file(life: Life, tmp_path: Path) -> None:
    pin = life.scene.write("passphrase", b"correct horse\n")
    key = tmp_path / "web.key"
    uri = f"file:{key}?pin-source=file:{pin}"
    life.run("keygen", uri)
    for name in ("first", "renewed"):
        life.certify(uri, name)
    before = set(tmp_path.iterdir())
    life.die(uri)
    assert before - set(tmp_path.iterdir()) == {key, key.with_suffix(".crt")}


@pytest.mark.parametrize("flags", [(), ("--pcrs", "sha256:7,14")], ids=["", "pcrs"])
@pytest.mark.parametrize("has_pin", [False, True], ids=["", "pin"])
def test_key_file_of_a_tpm(
    life: Life,
    swtpm: SoftTPM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    has_pin: bool,
) -> None:
    monkeypatch.setenv("TPM2_TCTI", swtpm.tcti)
    key = tmp_path / "web.tss2"
    pin = life.scene.write("pin", b"4711\n")
    uri = f"tpm2:path={key}" + (f"?pin-source=file:{pin}" if has_pin else "")
    assert life.live(uri, flags=flags) == uri
    shown = life.shown(str(key))  # Without the PIN, by its path.
    assert (shown["algorithm"], shown["certificate"]["uri"]) == ("EC P-256", str(key.with_suffix(".crt")))
    assert (shown["properties"]["pin"], shown["properties"]["noDA"]) == (has_pin, not has_pin)
    assert shown["properties"]["pcrs"] == (["sha256:7", "sha256:14"] if flags else [])
    assert "is there already" in life.refuse("keygen", key)  # The same file, by its path.
    before = set(tmp_path.iterdir())
    life.die(uri)
    assert before - set(tmp_path.iterdir()) == {key, key.with_suffix(".crt")}


def test_key_at_a_handle_with_its_certificate_in_the_tpm(
    life: Life, swtpm: SoftTPM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPM2_TCTI", swtpm.tcti)
    made = life.live(f"handle:{HANDLE}", "--nv-index", INDEX)
    assert life.shown(made)["certificate"]["uri"] == f"tpm2:nv={INDEX}"
    (tpm,) = json.loads(life.run("list", "tpm2:", "--json").out)["tokens"]
    assert f"tpm2:nv={INDEX}" in {one["uri"] for one in tpm["certificates"]}
    assert ["noDA"] in [key["notes"] for key in tpm["keys"] if key["uri"] == f"tpm2:handle={HANDLE}"]
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"
    assert f"value: {attributes}\n" in run(["tpm2_readpublic", "-c", HANDLE], swtpm.env).decode()
    with pytest.raises(ToolError):
        run(
            ["tpm2_duplicate", "-C", "null", "-c", HANDLE, "-G", "null", "-r", "/dev/null", "-s", "/dev/null"],
            swtpm.env,
        )
    life.refuse("keygen", f"tpm2:handle={HANDLE.upper().replace('X', 'x')}")  # The same handle, in another spelling.
    life.die(made)
    left = [run(["tpm2_getcap", f"handles-{kind}"], swtpm.env).decode().lower() for kind in ("persistent", "nv-index")]
    assert (HANDLE in left[0], f"{int(INDEX, 16):#x}" in left[1]) == (False, False)


def test_key_on_a_token_with_its_chain(life: Life, softhsm: InProcessSoftHSM) -> None:
    pin = life.scene.write("pin", softhsm.pin.encode())
    query = f"module-path={softhsm.module}&pin-source=file:{pin}"
    made = life.live(f"pkcs11:token={softhsm.label};object=web?{query}")
    assert made.endswith(f"?{query}")  # So the next command finds the PIN, too.
    key_id, serial = life.shown(made)["properties"]["id"], life.shown(made)["properties"]["serial"]
    as_id = "".join(f"%{key_id[i : i + 2]}" for i in range(0, len(key_id), 2))
    for other in ("object=web", f"object=other;id={as_id}", "object=web;id=%01"):
        assert "already has" in life.refuse("keygen", f"pkcs11:serial={serial};{other}?{query}")
    tool = ["pkcs11-tool", "--module", softhsm.module, "--token-label", softhsm.label, "--login", "--pin", softhsm.pin]
    objects = plain_ids(run([*tool, "--list-objects"], softhsm.env).decode())
    assert objects.count(f"ID:         {key_id}\n") == 3
    assert objects.count("Certificate Object") == 1  # The former one is gone.
    assert "Access:     sensitive, always sensitive, never extractable, local\n" in objects
    life.die(made)
    assert "Object" not in run([*tool, "--list-objects"], softhsm.env).decode()


@pytest.mark.parametrize(
    "firmware", [FIRMWARE_5_4, pytest.param(FIRMWARE_5_7, marks=judges.needs_libykcs11)], ids=["5.4", "5.7"]
)
def test_key_in_a_slot_of_a_yubikey(
    life: Life,
    pcsc: SoftPcsc,
    new_yubikey: Callable[..., YubiKey],
    firmware: tuple[int, int, int],
) -> None:
    yubikey = new_yubikey(firmware)
    yubikey.insert(pcsc)
    forget_cards()
    management, pin = life.scene.write("management", MANAGEMENT_KEY.encode()), life.scene.write("pin", b"123456")
    uri = yubikey.uri(0x82, YKCS11)
    managed = f"{uri}&pin-source=file:{management}"
    made = life.make(managed)
    by_serial = managed.replace(f"token=YubiKey%20PIV%20%23{yubikey.serial}", f"serial={yubikey.serial}")
    assert by_serial != managed
    assert "has a key already" in life.refuse("keygen", by_serial)
    assert "names no slot" in life.scene.call("keygen", managed.replace("id=%05", "id=%05%01")).err
    public_key = yubikey.public_key(0x82)
    for name in ("first", "renewed"):
        life.certify(f"{made}&pin-source=file:{pin}", name, into=managed)
    tries = len(yubikey.pin_tries)
    assert profiles.profile("web", os.environ).values["agent"] == "auto"  # Its PIN policy is not "never".
    shown = life.shown("--profile", "web")
    assert (shown["properties"]["pivSlot"], shown["certificate"]["matches"]) == ("82", True)
    status = run(["yubico-piv-tool", "-a", "status"], pcsc.env).decode()
    assert "Slot 82:" in status
    assert re.search(r"Subject DN:\t+OU=devops, CN=renewed\n", status)
    assert len(yubikey.pin_tries) == tries  # No PIN was spent.
    assert set(yubikey.pin_tries) == {0x9000}
    assert yubikey.public_key(0x82) == public_key
    problem = life.refuse("delete", managed, "--yes")
    assert "was not deleted: libykcs11 reports success and keeps it" in problem
    assert ("before firmware 5.7" in problem) == (firmware == FIRMWARE_5_4)
    assert life.shown(made)["certificate"]["matches"] is True


def test_wrong_pin_is_spent_once(life: Life, softhsm: InProcessSoftHSM) -> None:
    pin, wrong = life.scene.write("pin", softhsm.pin.encode()), life.scene.write("wrong", b"000000")
    uri = f"pkcs11:token={softhsm.label};object=once?module-path={softhsm.module}"
    made = life.make(f"{uri}&pin-source=file:{pin}")
    life.certify(made, "once")
    refused = f"{uri}&pin-source=file:{wrong}"
    assert "wrong PIN" in life.refuse("show", refused)
    for command in (
        ("keygen", refused),
        ("csr", refused, "--subject", "CN=once"),
        ("install-certificate", life.certificate, refused),
        ("delete", refused, "--yes"),
        ("attest", refused),
    ):
        assert "an earlier PIN failed" in life.refuse(*command)
    # A login with the right PIN ends the token's warning, which other tests would meet.
    tool = ["pkcs11-tool", "--module", softhsm.module, "--token-label", softhsm.label, "--login", "--pin", softhsm.pin]
    run([*tool, "--list-objects"], softhsm.env)
    life.die(made)
