"""yubico-piv-tool takes the emulated card for a YubiKey, and is refused what a YubiKey refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asn1crypto.core import Integer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

import judges
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import FIRMWARE_5_7, YubiKey
from yubikeys import fail, succeed

SLOTS = {"9a": 0x9A, "9c": 0x9C, "9d": 0x9D, "9e": 0x9E, "82": 0x82, "95": 0x95}
PUBLIC_DER = ("-pubin", "-inform", "DER")
OTHER_KEY = "0123456789abcdef" * 2 + "fedcba9876543210" * 2


def tool(*arguments: str | Path) -> str:
    return succeed("yubico-piv-tool", *arguments)


def refused(*arguments: str | Path) -> str:
    return fail("yubico-piv-tool", *arguments)


@judges.needs_yubico_piv_tool
@pytest.mark.parametrize(
    ("slot", "algorithm"), [("9a", "ECCP256"), ("9c", "RSA2048"), ("9d", "ECCP384"), ("95", "ECCP256")]
)
def test_generated_key_signs_and_its_certificate_is_imported(
    yubikey: YubiKey, tmp_path: Path, slot: str, algorithm: str
) -> None:
    public, certificate, request = (tmp_path / name for name in ("public.pem", "certificate.pem", "request.pem"))
    tool("-a", "generate", "-s", slot, "-A", algorithm, "-o", public)
    written = load_pem_public_key(public.read_bytes())
    der = written.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert der == yubikey.public_key(SLOTS[slot])
    sign = ("-a", "verify-pin", "-P", yubikey.pin, "-s", slot, "-S", "/CN=bamboo/", "-i", public)
    tool(*sign, "-a", "request-certificate", "-o", request)
    succeed("openssl", "req", "-in", request, "-verify", "-noout")
    tool(*sign, "-a", "selfsign-certificate", "-o", certificate)
    succeed("openssl", "verify", "-CAfile", certificate, certificate)
    tool("-a", "import-certificate", "-s", slot, "-i", certificate)
    tool("-a", "verify-pin", "-P", yubikey.pin, "-a", "test-signature", "-s", slot, "-i", certificate)
    assert re.search(r"Subject DN:\t+CN=bamboo\n", tool("-a", "status"))


def ec_key_of_full_length() -> ec.EllipticCurvePrivateKey:
    """Return a key whose number does not start with a zero byte: yubico-piv-tool can't import others."""
    while True:
        key = ec.generate_private_key(ec.SECP384R1())
        if key.private_numbers().private_value.bit_length() > 376:
            return key


def rsa_key_of_full_length() -> rsa.RSAPrivateKey:
    """Return a key whose numbers do not start with a zero byte: yubico-piv-tool gets their length wrong."""
    while True:
        key = rsa.generate_private_key(65537, 2048)
        numbers = key.private_numbers()
        if all(number.bit_length() > 1016 for number in (numbers.dmp1, numbers.dmq1, numbers.iqmp)):
            return key


@pytest.mark.parametrize("slot", ["9a", "82"])
def test_imported_key_signs(yubikey: YubiKey, tmp_path: Path, slot: str) -> None:
    for key in (ec_key_of_full_length(), rsa_key_of_full_length()):
        path = tmp_path / "key.pem"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        tool("-a", "import-key", "-s", slot, "-i", path)
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert yubikey.public_key(SLOTS[slot]) == der
        refused("-a", "attest", "-s", slot)


def test_attestation_verifies_up_to_the_root(yubikey: YubiKey, tmp_path: Path) -> None:
    tool("-a", "generate", "-s", "9a", "-A", "ECCP256", "--pin-policy", "always", "--touch-policy", "cached")
    names = ("root.pem", "intermediate.pem", "leaf.pem")
    root, intermediate, leaf = (tmp_path / name for name in names)
    root.write_text(yubikey.attestation_root)
    tool("-a", "read-certificate", "-s", "f9", "-o", intermediate)
    tool("-a", "attest", "-s", "9a", "-o", leaf)
    succeed("openssl", "verify", "-CAfile", root, "-untrusted", intermediate, leaf)
    certificate = x509.load_pem_x509_certificate(leaf.read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key == yubikey.public_key(0x9A)
    values = {
        extension.oid.dotted_string.removeprefix("1.3.6.1.4.1.41482.3."): extension.value.public_bytes()
        for extension in certificate.extensions
    }
    assert values["3"] == bytes([5, 4, 3])
    assert Integer.load(values["7"], strict=True).native == yubikey.serial
    assert values["8"] == bytes([3, 3])


@pytest.mark.parametrize("serial", [1, 127, 128, 10000001, 0xFFFFFFFF])
def test_attested_serial_is_a_positive_number_in_der(tmp_path: Path, serial: int) -> None:
    card = YubiKey(tmp_path / "card.json", serial)
    card.generate(0x9A)
    certificate = x509.load_der_x509_certificate(card.attest(0x9A))
    extension = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.4.1.41482.3.7")).value
    der = extension.public_bytes()
    number = Integer.load(der, strict=True).native
    assert (number, Integer(number).dump()) == (serial, der)


def test_attestation_of_another_card_does_not_verify(yubikey: YubiKey, tmp_path: Path) -> None:
    tool("-a", "generate", "-s", "9a", "-A", "ECCP256")
    tool("-a", "read-certificate", "-s", "f9", "-o", tmp_path / "intermediate.pem")
    tool("-a", "attest", "-s", "9a", "-o", tmp_path / "leaf.pem")
    (tmp_path / "root.pem").write_text(YubiKey(tmp_path / "other.json").attestation_root)
    leaf = ("-untrusted", tmp_path / "intermediate.pem", tmp_path / "leaf.pem")
    fail("openssl", "verify", "-CAfile", tmp_path / "root.pem", *leaf)


def test_pin_and_puk_are_verified_and_changed(yubikey: YubiKey) -> None:
    tool("-a", "verify-pin", "-P", yubikey.pin)
    tool("-a", "change-pin", "-P", yubikey.pin, "-N", "654321")
    refused("-a", "verify-pin", "-P", yubikey.pin)
    tool("-a", "verify-pin", "-P", "654321")
    tool("-a", "change-puk", "-P", yubikey.puk, "-N", "87654321")
    refused("-a", "unblock-pin", "-P", yubikey.puk, "-N", yubikey.pin)
    tool("-a", "unblock-pin", "-P", "87654321", "-N", yubikey.pin)
    tool("-a", "verify-pin", "-P", yubikey.pin)
    assert yubikey.pin_tries == [0x9000, 0x9000, 0x63C2, 0x9000, 0x9000]


def test_wrong_pins_are_counted_and_lock(yubikey: YubiKey) -> None:
    for left in (2, 1):
        assert f"{left} tries left" in refused("-a", "verify-pin", "-P", "000000")
        assert f"PIN tries left:\t{left}" in tool("-a", "status")
    refused("-a", "verify-pin", "-P", "000000")
    assert "blocked" in refused("-a", "verify-pin", "-P", yubikey.pin)
    assert yubikey.pin_tries == [0x63C2, 0x63C1, 0x63C0, 0x6983]
    tool("-a", "unblock-pin", "-P", yubikey.puk, "-N", "111111")
    tool("-a", "verify-pin", "-P", "111111")


def test_tries_survive_removal(yubikey: YubiKey, tmp_path: Path) -> None:
    refused("-a", "verify-pin", "-P", "000000")
    again = YubiKey(yubikey.state.path)
    assert again.state == yubikey.state
    assert again.state.pin.left == 2


def test_reset_needs_a_blocked_pin_and_puk(yubikey: YubiKey) -> None:
    tool("-a", "generate", "-s", "9a", "-A", "ECCP256")
    refused("-a", "reset")
    for _ in range(4):
        refused("-a", "verify-pin", "-P", "000000")
    refused("-a", "reset")
    for _ in range(4):
        refused("-a", "change-puk", "-P", "00000000", "-N", "87654321")
    assert 0x9A in yubikey.state.keys
    tool("-a", "reset")
    assert 0x9A not in yubikey.state.keys
    tool("-a", "verify-pin", "-P", yubikey.pin)


def test_number_of_tries_can_be_set(yubikey: YubiKey) -> None:
    numbers = ("--pin-retries", "6", "--puk-retries", "4")
    refused("-a", "pin-retries", *numbers)
    tool("-a", "verify-pin", "-P", yubikey.pin, "-a", "pin-retries", *numbers)
    assert "5 tries left" in refused("-a", "verify-pin", "-P", "000000")


@judges.needs_yubico_piv_tool
@pytest.mark.parametrize(("algorithm", "size"), [("TDES", 24), ("AES128", 16), ("AES192", 24), ("AES256", 32)])
def test_management_key_can_be_changed(yubikey: YubiKey, algorithm: str, size: int) -> None:
    key, other = OTHER_KEY[: 2 * size], OTHER_KEY[:48]
    generate = ("-a", "generate", "-s", "9a", "-A", "ECCP256")
    refused(f"-k{other}", *generate)
    tool("-a", "set-mgm-key", "-m", algorithm, "-n", key)
    refused(*generate)
    assert 0x9A not in yubikey.state.keys
    tool(f"-k{key}", *generate)
    assert 0x9A in yubikey.state.keys


@judges.needs_yubico_piv_tool
def test_signature_needs_the_pin(yubikey: YubiKey, tmp_path: Path) -> None:
    yubikey.generate(0x9A)
    succeed("openssl", "pkey", *PUBLIC_DER, "-out", tmp_path / "public.pem", input=yubikey.public_key(0x9A))
    request = ("-a", "request-certificate", "-s", "9a", "-S", "/CN=x/", "-i", tmp_path / "public.pem")
    refused(*request)
    tool("-a", "verify-pin", "-P", yubikey.pin, *request)


def test_key_in_9e_signs_without_a_pin(yubikey: YubiKey, tmp_path: Path) -> None:
    for slot in ("9e", "9a"):
        yubikey.generate(SLOTS[slot])
        (tmp_path / slot).write_bytes(yubikey.self_sign(SLOTS[slot], slot))
    tool("-a", "test-signature", "-s", "9e", "-i", tmp_path / "9e", "-K", "DER")
    refused("-a", "test-signature", "-s", "9a", "-i", tmp_path / "9a", "-K", "DER")


def test_key_decrypts(yubikey: YubiKey, tmp_path: Path) -> None:
    for kind in ("EC:P-256", "RSA:2048"):
        yubikey.generate(0x9D, kind)
        (tmp_path / "certificate.der").write_bytes(yubikey.self_sign(0x9D, "decryption"))
        file = ("-i", tmp_path / "certificate.der", "-K", "DER")
        tool("-a", "verify-pin", "-P", yubikey.pin, "-a", "test-decipher", "-s", "9d", *file)


@pytest.fixture
def card_of_5_7(yubikey: YubiKey, pcsc: SoftPcsc, new_yubikey: Callable[..., YubiKey]) -> Iterator[YubiKey]:
    """A card with firmware 5.7 instead of the other one."""
    card = new_yubikey(FIRMWARE_5_7)
    card.insert(pcsc)
    yield card
    card.remove()


@judges.needs_yubico_piv_tool
def test_firmware_5_7_makes_long_rsa_keys(card_of_5_7: YubiKey, tmp_path: Path) -> None:
    assert "Version:\t5.7.4" in tool("-a", "status")
    for algorithm, bits in (("RSA3072", 3072), ("RSA4096", 4096)):
        tool("-a", "generate", "-s", "9a", "-A", algorithm, "-o", tmp_path / "public.pem")
        key = load_pem_public_key((tmp_path / "public.pem").read_bytes())
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == bits


@judges.needs_yubico_piv_tool
def test_firmware_5_7_moves_and_deletes_keys(card_of_5_7: YubiKey, tmp_path: Path) -> None:
    tool("-a", "generate", "-s", "9a", "-A", "ECCP256")
    public_key = card_of_5_7.public_key(0x9A)
    tool("-a", "move-key", "-s", "9a", "--to-slot", "82")
    assert card_of_5_7.public_key(0x82) == public_key
    tool("-a", "attest", "-s", "82", "-o", tmp_path / "leaf.pem")
    refused("-a", "attest", "-s", "9a")
    refused("-a", "move-key", "-s", "9a", "--to-slot", "83")
    tool("-a", "delete-key", "-s", "82")
    assert set(card_of_5_7.state.keys) == {0xF9}
    refused("-a", "attest", "-s", "82")


def test_firmware_5_4_deletes_no_keys(yubikey: YubiKey) -> None:
    tool("-a", "generate", "-s", "9a", "-A", "ECCP256")
    keys = dict(yubikey.state.keys)
    refused("-a", "delete-key", "-s", "9a")
    refused("-a", "move-key", "-s", "9a", "--to-slot", "82")
    refused("-a", "generate", "-s", "9a", "-A", "RSA3072")
    assert yubikey.state.keys == keys


def test_objects_are_written_and_read(yubikey: YubiKey) -> None:
    refused("-a", "read-object", "--id", str(0x5FC102))
    tool("-a", "set-chuid")
    tool("-a", "set-ccc")
    status = tool("-a", "status")
    assert "CHUID:\tNo data available" not in status
    assert f"Serial Number:\t{yubikey.serial}" in status
    assert "Version:\t5.4.3" in status
