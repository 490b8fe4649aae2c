"""The emulated card, used with pkcs11-tool through OpenSC's module and libykcs11."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from backends.pkcs11.tokens import plain_ids
from softhsm import touch
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import OPENSC, YKCS11, YubiKey, find_module
from yubikeys import fail, run, succeed

MODULES = [OPENSC, YKCS11]
SIGN_SLOTS = {0x9A: "EC:P-256", 0x9C: "EC:P-384", 0x9E: "RSA:2048"}
IDS = {0x9A: "01", 0x9C: "02", 0x9E: "04"}
LABELS = {
    OPENSC: {0x9A: "PIV AUTH key", 0x9C: "SIGN key", 0x9E: "CARD AUTH key"},
    YKCS11: {
        0x9A: "Private key for PIV Authentication",
        0x9C: "Private key for Digital Signature",
        0x9E: "Private key for Card Authentication",
    },
}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def keys(yubikey: YubiKey) -> YubiKey:
    """The card with a key and a certificate in 9a, 9c and 9e."""
    for slot, kind in SIGN_SLOTS.items():
        yubikey.generate(slot, kind)
        yubikey.self_sign(slot, f"slot {slot:02x}")
    return yubikey


def command(module: str, *arguments: str | Path) -> list[str | Path]:
    return ["pkcs11-tool", "--module", find_module(module), *arguments]


def sign_command(module: str, folder: Path, slot: int, pin: str, *arguments: str) -> list[str | Path]:
    (folder / "data").write_bytes(b"what is signed")
    mechanism = "SHA256-RSA-PKCS" if SIGN_SLOTS[slot].startswith("RSA") else "ECDSA-SHA256"
    files: list[str | Path] = ["--signature-format", "openssl", "-i", folder / "data", "-o", folder / "signature"]
    login = ["--login", "--pin", pin]
    return command(module, "--sign", "--id", IDS[slot], "-m", mechanism, *login, *files, *arguments)


def verify(card: YubiKey, folder: Path, slot: int) -> None:
    (folder / "public.der").write_bytes(card.public_key(slot))
    key = ("-verify", folder / "public.der", "-keyform", "DER", "-signature", folder / "signature")
    succeed("openssl", "dgst", "-sha256", *key, folder / "data")


def flags(module: str) -> str:
    found = re.search(r"token flags +: (.*)", succeed(*command(module, "-L")))
    assert found
    return found[1]


@pytest.mark.parametrize("slot", SIGN_SLOTS)
def test_key_in_each_slot_signs(keys: YubiKey, module: str, tmp_path: Path, slot: int) -> None:
    succeed(*sign_command(module, tmp_path, slot, keys.pin))
    verify(keys, tmp_path, slot)


def test_key_in_9c_needs_the_pin_for_each_signature(keys: YubiKey, module: str, tmp_path: Path) -> None:
    succeed(*sign_command(module, tmp_path, 0x9A, keys.pin))
    assert keys.pin_tries == [0x9000]
    succeed(*sign_command(module, tmp_path, 0x9C, keys.pin))
    assert keys.pin_tries == [0x9000] * 3


def test_modules_show_the_keys_and_certificates(keys: YubiKey, module: str) -> None:
    listed = plain_ids(succeed(*command(module, "-O", "--login", "--pin", keys.pin)))
    private = {
        identity: (label, "always authenticate" in access)
        for label, identity, access in re.findall(
            # OpenSC 0.27 shows the modulus first.
            r"Private Key Object.*\n(?:  .*\n)*?  label: +(.*)\n  ID: +(.*)\n  Usage.*\n  Access: +(.*)",
            listed,
        )
    }
    for slot, label in LABELS[module].items():
        assert private[IDS[slot]] == (label, slot == 0x9C)
        assert f"CN=slot {slot:02x}" in listed


def test_attestation_certificate_has_the_id_of_the_key(keys: YubiKey) -> None:
    keys.import_key(0x9E, keys.state.keys[0x9E].private_key)
    listed = plain_ids(succeed(*command(YKCS11, "-O")))
    certificates = re.findall(
        r"Certificate Object.*\n  label: .*\n  subject: +DN: CN=(.*)\n  serial.*\n  ID: +(.*)", listed
    )
    attestation = "YubiKey PIV Attestation "
    assert sorted(name for name, identity in certificates if identity == "01") == [f"{attestation}9a", "slot 9a"]
    assert sorted(name for name, identity in certificates if identity == "02") == [f"{attestation}9c", "slot 9c"]
    assert [name for name, identity in certificates if identity == "04"] == ["slot 9e"]


def test_wrong_pin_reaches_the_card_once(keys: YubiKey, module: str, tmp_path: Path) -> None:
    assert "CKR_PIN_INCORRECT" in fail(*sign_command(module, tmp_path, 0x9A, "000000"))
    assert keys.pin_tries == [0x63C2]
    assert not any(entry.startswith("87") for entry in keys.log)


def test_flags_show_failed_tries_and_the_lock(keys: YubiKey, module: str, tmp_path: Path) -> None:
    states = {OPENSC: ["", "", "final user PIN try", "user PIN locked"]}
    states[YKCS11] = ["", "user PIN count low", "final user PIN try", "user PIN locked"]
    for state in states[module]:
        shown = [flag for flag in flags(module).split(", ") if "user PIN" in flag]
        assert shown == ([state] if state else [])
        fail(*sign_command(module, tmp_path, 0x9A, "000000"))
    assert "CKR_PIN_LOCKED" in fail(*sign_command(module, tmp_path, 0x9A, keys.pin))
    assert keys.state.pin.left == 0


def test_good_login_clears_the_flags(keys: YubiKey, module: str, tmp_path: Path) -> None:
    for _ in range(2):
        fail(*sign_command(module, tmp_path, 0x9A, "000000"))
    assert "final user PIN try" in flags(module)
    succeed(*sign_command(module, tmp_path, 0x9A, keys.pin))
    assert "final user PIN try" not in flags(module)


def test_touch_completes_the_signature(keys: YubiKey, module: str, tmp_path: Path) -> None:
    keys.generate(0x9A, touch_policy=2)
    with subprocess.Popen(sign_command(module, tmp_path, 0x9A, keys.pin), env=os.environ) as signing:
        assert keys.sensor.wait_until_asked()
        assert signing.poll() is None
        keys.touch()
        assert signing.wait(60) == 0
    verify(keys, tmp_path, 0x9A)


def test_missing_touch_ends_the_signature(
    keys: YubiKey, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.generate(0x9A, touch_policy=2)
    monkeypatch.setattr(keys.sensor, "seconds", 0.05)
    assert "CKR_USER_NOT_LOGGED_IN" in fail(*sign_command(module, tmp_path, 0x9A, keys.pin))
    # pkcs11-tool tries C_Sign, and then C_SignUpdate.
    assert {entry[-4:] for entry in keys.log if entry.startswith("87 11 9A")} == {"6982"}


def test_cached_touch_is_enough_for_the_next_signature(
    keys: YubiKey, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(touch, "_CACHED_SECONDS", 60.0)  # Two runs may take 15 seconds on a busy machine.
    keys.generate(0x9E, "RSA:2048", touch_policy=3)
    keys.sensor.reset()
    keys.sensor.delay = 0.0
    for _ in range(2):
        succeed(*sign_command(module, tmp_path, 0x9E, keys.pin))
    assert keys.sensor.asked == 1


def test_key_signs_after_removal_and_reinsertion(keys: YubiKey, pcsc: SoftPcsc, module: str) -> None:
    label = {OPENSC: "slot 9a", YKCS11: f"YubiKey PIV #{keys.serial}"}[module]
    for _ in range(2):
        assert label in succeed(*command(module, "-L"))
        keys.remove()
        assert label not in run(*command(module, "-L")).stdout
        keys.insert(pcsc)


def test_removal_ends_the_wait_for_a_touch(keys: YubiKey, pcsc: SoftPcsc, module: str, tmp_path: Path) -> None:
    keys.generate(0x9A, touch_policy=2)
    with subprocess.Popen(
        sign_command(module, tmp_path, 0x9A, keys.pin), env=os.environ, stderr=subprocess.PIPE
    ) as signing:
        assert keys.sensor.wait_until_asked()
        keys.remove()
        _, errors = signing.communicate(timeout=60)
    assert signing.returncode == 1
    # OpenSC reports the removal only if pcscd has noticed it by then.
    # libykcs11 2.2 calls it a device error.
    shown = {OPENSC: rb"CKR_GENERAL_ERROR|CKR_DEVICE_REMOVED", YKCS11: rb"CKR_DEVICE_(REMOVED|ERROR)"}[module]
    assert re.search(shown, errors)
    keys.insert(pcsc)


def test_verified_pin_is_lost_by_removal(keys: YubiKey, pcsc: SoftPcsc, tmp_path: Path) -> None:
    # OpenSC does not reset the card: the PIN stays verified for its next process, but not after a removal.
    succeed(*sign_command(OPENSC, tmp_path, 0x9A, keys.pin))
    raw = ("opensc-tool", "--card-driver", "default", "-s", "00:20:00:80")
    assert "SW1=0x90, SW2=0x00" in succeed(*raw)
    succeed(*sign_command(OPENSC, tmp_path, 0x9A, keys.pin))
    keys.remove()
    keys.insert(pcsc)
    select = ("-s", "00:A4:04:00:05:A0:00:00:03:08")
    assert "SW1=0x63, SW2=0xC3" in succeed(*raw[:3], *select, *raw[3:])


def test_two_cards_are_shown_with_their_own_keys(
    keys: YubiKey, pcsc: SoftPcsc, new_yubikey: Callable[[], YubiKey], module: str, tmp_path: Path
) -> None:
    other = new_yubikey()
    other.generate(0x9A)
    other.self_sign(0x9A, "other")
    labels = {OPENSC: ("slot 9a", "other"), YKCS11: tuple(f"YubiKey PIV #{card.serial}" for card in (keys, other))}
    other.insert(pcsc, 1)
    try:
        for card, label in zip((keys, other), labels[module], strict=True):
            succeed(*sign_command(module, tmp_path, 0x9A, card.pin, "--token-label", label))
            verify(card, tmp_path, 0x9A)
    finally:
        other.remove()
    assert keys.pin_tries == other.pin_tries == [0x9000]


def test_answers_are_sent_without_pauses(
    keys: YubiKey, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A delayed acknowledgement costs 40 ms at each command in every run; without it, most take less than 1 ms.
    times: list[float] = []
    respond = keys._exchange.respond

    def respond_timed(message: bytes) -> bytes:
        times.append(time.monotonic())
        return respond(message)

    monkeypatch.setattr(keys._exchange, "respond", respond_timed)
    for _ in range(20):
        times.clear()
        succeed(*sign_command(module, tmp_path, 0x9A, keys.pin))
        if statistics.median(after - before for before, after in pairwise(times)) < 0.03:
            return
    pytest.fail("there were over 30 ms from each command to the next")
