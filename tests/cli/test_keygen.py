"""`hwsigner keygen`: what it asks a backend for, and what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from backends.file.keyfiles import openssl
from hwsigner._pins import PinRequest, PinSource
from hwsigner._pins import sources as pin_sources
from hwsigner._uri import KeyURI
from hwsigner.backends import BACKENDS, Backend
from hwsigner.errors import UsageError
from hwsigner.key.management import KeyDescription, KeyRequest, generate_key
from judges import needs_namespaces
from scene import Outcome


class Drawer(ModuleType):
    """A backend's management module, which keeps what it was asked for."""

    uri: KeyURI
    request: KeyRequest
    pin: str | None

    def generate_key(self, uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
        self.uri, self.request, self.pin = uri, request, pins.offered(uri, PinRequest("PIN", "the drawer"))
        return KeyDescription(f"{uri}'\x1b[31m", "the drawer", None, ("It is locked", "It is oak"), {"wood": "oak"})


@pytest.fixture
def drawer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawer]:
    """A backend for the scheme `drawer`."""
    found = Drawer("drawer_management")
    monkeypatch.setitem(sys.modules, "drawer_management", found)
    monkeypatch.setitem(BACKENDS, "drawer", Backend("drawer_management", management="drawer_management"))
    yield found
    pin_sources.forget()


def test_file_key_is_made_and_described(call: Callable[..., Outcome], tmp_path: Path) -> None:
    path = tmp_path / "web.key"
    outcome = call("keygen", path)
    assert (outcome.status, outcome.err) == (0, "")
    rows = [line.split(maxsplit=1) for line in outcome.out.splitlines()]
    assert rows == [
        ["URI", str(path)],
        ["Algorithm", "EC P-256"],
        ["Place", f"the file {path}, from which it can be copied"],
        ["Guard", "The file has mode 0600"],
        ["Guard", "It is not encrypted"],
        ["Note", "A program that can read the file can copy the key, so it is for development"],
        ["Next", f"hwsigner csr {path} --subject CN=NAME"],
    ]
    assert call("sign-string", "--private-key", path).status == 0


READ_ONLY = 'mount -t tmpfs -o ro tmpfs "$1"; shift; exec "$@"'


@needs_namespaces
def test_read_only_file_system_is_named(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", READ_ONLY, "sh", str(tmp_path), sys.executable]
    command += ["-m", "hwsigner", "keygen", str(tmp_path / "web.key")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == f"hwsigner: can't write into {tmp_path}: Read-only file system. Choose another folder\n"


def test_json_has_the_public_key(call: Callable[..., Outcome], tmp_path: Path) -> None:
    path = tmp_path / "web.key"
    outcome = call("keygen", path, "--algorithm=rsa2048", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    made: dict[str, Any] = json.loads(outcome.out)
    assert made.keys() == {"uri", "place", "algorithm", "publicKey", "guards", "properties", "notes"}
    assert (made["uri"], made["algorithm"]) == (str(path), "RSA 2048")
    assert made["publicKey"] == openssl("pkey", "-in", str(path), "-pubout").decode()
    assert made["properties"]["extractable"] is True


def test_passphrase_flag_encrypts_with_a_warning(call: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = call("keygen", tmp_path / "web.key", "--pkcs8-password", "secret", "--json")
    assert outcome.err.count("warning: --pkcs8-password on the command line is visible") == 1
    assert "secret" not in outcome.out + outcome.err
    assert json.loads(outcome.out)["properties"]["encrypted"] is True


def test_pin_in_the_uri_is_warned_of(call: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = call("keygen", f"file:{tmp_path}/web.key?pin-value=s3cret")
    assert "warning: pin-value on the command line is visible to other users" in outcome.err
    assert "s3cret" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("flags", "request_"),
    [
        ((), KeyRequest()),
        (("--algorithm", "p521"), KeyRequest(algorithm="p521")),
        (("--always-authenticate",), KeyRequest(always_authenticate=True)),
        (("--accept-unproven",), KeyRequest(accept_unproven=True)),
        (
            ("--pin-policy=once", "--touch-policy=cached", "--overwrite"),
            KeyRequest(pin_policy="once", touch_policy="cached", overwrite=True),
        ),
        (("--noda",), KeyRequest(noda=True)),
        (("--noda=false", "--pcrs=sha256:7,14"), KeyRequest(noda=False, pcrs="sha256:7,14")),
    ],
)
def test_flags_become_the_request(
    call: Callable[..., Outcome], drawer: Drawer, flags: tuple[str, ...], request_: KeyRequest
) -> None:
    assert call("keygen", "drawer:name=x?pin-source=env:HOME", *flags).status == 0
    assert drawer.request == request_
    assert drawer.uri == KeyURI.parse("drawer:name=x?pin-source=env:HOME")


def test_what_a_backend_says_is_printed_safely(call: Callable[..., Outcome], drawer: Drawer) -> None:
    outcome = call("keygen", "drawer:name=x")
    assert outcome.out.splitlines()[0] == "URI        drawer:name=x'\\x1b[31m"
    assert outcome.out.splitlines()[-1] == """Next       hwsigner csr 'drawer:name=x'"'"'\\x1b[31m' --subject CN=NAME"""
    assert "Algorithm  unknown" in outcome.out
    made = json.loads(call("keygen", "drawer:name=x", "--json").out)
    assert (made["publicKey"], made["algorithm"], made["properties"]) == (None, None, {"wood": "oak"})


def test_backend_without_management_is_named(call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "shelf", Backend("shelf"))
    outcome = call("keygen", "shelf:name=x")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "hwsigner: shelf: keys can't be made by hwsigner. Use the tool that comes with them\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("one", "two"),
        ("k", "--algorithm", "p224"),
        ("k", "--pin-policy", "sometimes"),
        ("k", "--touch-policy=once"),
        ("k", "--noda=perhaps"),
        ("k", "--certificate=c"),
        ("k", "--overwrite"),
        ("tpm2:path=",),
        ("pcks11:token=alpha;object=web",),
        ("tpm:path=web.tss2",),
        ("pcks11:token=alpha;object=web?pin-value=1234",),
        ("hande:0x81000100",),
        ("pcks11:token=alpha;object=web?module-path=/usr/lib/libykcs11.so.2",),
    ],
)
def test_invalid_arguments_exit_with_status_2(
    call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("keygen", *arguments)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "1234" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_file_is_named_like_a_uri_only_on_purpose(
    call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt scheme would put a key that was meant for hardware into a file."""
    monkeypatch.chdir(tmp_path)
    refused = call("keygen", "pcks11:object=web")
    assert refused.err.startswith("hwsigner: pcks11:object=web looks like a key URI of an unknown scheme")
    with pytest.raises(UsageError, match="unknown scheme"):
        generate_key("pcks11:object=web")
    for purpose in ("./pcks11:object=web", "file:pcks11:object=again"):
        assert call("keygen", purpose).status == 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("0x81000100", "handle:0x81000100"),
        ("81000100", "handle:0x81000100"),
        ("0x8100", "handle:0x81000100"),
        ("web.tss2", "tpm2:path=web.tss2"),
        ("folder/web.TSS", "tpm2:path=folder/web.TSS"),
        ("web.tpm", "tpm2:path=web.tpm"),
        *((name, "tpm2:path=web.tss2 or handle:0x81000100") for name in ("tpm", "TPM2", "tpm 2.0", "tpm0", "tabrmd")),
        *(
            (name, "tpm2:path=web.tss2 or handle:0x81000100")
            for name in ("tpm_2", "tpm2_0", "tpm-rm0", "tpm2-tss", " tpm")
        ),
        ("0x8100_0100", "handle:0x81000100"),
        ("handle=0x81000100", "tpm2:handle=0x81000100"),
        *(
            (name, "pkcs11:token=YubiKey%20PIV%20%23SERIAL;id=%01")
            for name in ("yubikey", "YubiKey5", "yubikey-5", "piv", "9a", "slot_9a", "piv-9a")
        ),
        *(
            (name, f"pkcs11:token=YubiKey%20PIV%20%23SERIAL;id=%{number}")
            for name, number in (("9C", "02"), ("slot9d", "03"), ("9e", "04"), ("82", "05"), ("8a", "0d"), ("95", "18"))
        ),
        *(
            (name, "pkcs11:token=alpha;object=web")
            for name in ("pkcs11", "token", "token0", "softhsm2", "HSM", "slot0", "/dev/x", "tpm2-pkcs11", "smart_card")
        ),
        ("token=alpha;object=web", "pkcs11:token=alpha;object=web"),
        ("/no/libx.so.2", "pkcs11:token=alpha;object=web?module-path=/no/libx.so.2"),
    ],
)
def test_name_that_means_hardware_is_refused_with_the_uri_to_write(
    call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    refused = call("keygen", name)
    assert refused.status == 2
    assert f"{name} names hardware" in refused.err
    assert f"Write {uri}, or file:" in refused.err
    for used in (lambda: generate_key(name), lambda: KeyURI.of_new(name)):
        with pytest.raises(UsageError, match="names hardware"):
            used()
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize(
    "name",
    [
        *("file:web.tss2", "file:tpm", "./token", "tokens.key", "handler.pem", "9f", "tss2.key"),
        *("tpm.pem", "my-token.pem", "hsm01.pem", "9a.pem", "yubikey-backup.pem", "yubikey-backup", "tpm-key"),
    ],
)
def test_key_file_is_made_when_its_name_does_not_mean_hardware(
    call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("keygen", name).status == 0
    assert (tmp_path / name.removeprefix("file:")).is_file()


def test_key_file_with_a_name_of_hardware_stays_in_use(tmp_path: Path) -> None:
    path = tmp_path / "old.tss2"
    generate_key(f"file:{path}")
    assert KeyURI.of_new(str(path)).scheme == "file"
