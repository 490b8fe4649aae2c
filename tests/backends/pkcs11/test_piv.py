"""Keys of emulated YubiKeys from the first to the last day, through libykcs11, judged by yubico-piv-tool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

import judges
from backends.contract import openssl_verifies
from certs import Authority, issue, make_ca
from hwsigner._identity import IdentitySource, open_identity
from hwsigner._pins import AskPin, PinRequest, PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import piv
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Functions
from hwsigner.backends.pkcs11.piv_slots import Attestation
from hwsigner.backends.pkcs11.search import FoundToken, choose_token
from hwsigner.backends.pkcs11.writing import WritingSession
from hwsigner.errors import (
    AmbiguousKeyError,
    HwsignerError,
    KeyMismatchError,
    KeyNotFoundError,
    PinError,
    PinRequiredError,
    SigningKeyError,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.key import FoundCertificate, HashName, find_certificates, management, open_key
from hwsigner.key.management import InstalledCertificate, KeyAlgorithm, KeyDescription, KeyRequest
from pkcs11_shim import Person
from softhsm import apdu
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import FIRMWARE_5_7, OPENSC, YKCS11, YubiKey, find_module
from yubikeys import fail, forget_cards, succeed

DEFAULT_KEY = "0102030405060708" * 3
OTHER_KEY = "0123456789abcdef" * 3


@pytest.fixture
def new_card(yubikey: YubiKey, pcsc: SoftPcsc, new_yubikey: Callable[..., YubiKey]) -> Iterator[Callable[..., YubiKey]]:
    """A function that puts a new card with some firmware into the reader."""
    cards = []

    def make(firmware: tuple[int, int, int]) -> YubiKey:
        card = new_yubikey(firmware)
        card.insert(pcsc)
        cards.append(card)
        forget_cards()
        return card

    yield make
    for card in cards:
        card.remove()


@pytest.fixture(scope="module")
def ca() -> Authority:
    return make_ca()


def locate(uri: str) -> tuple[FoundToken, KeyURI]:
    parsed = KeyURI.parse(uri)
    return choose_token(parsed, None), parsed


def generate(
    card: YubiKey,
    slot: int = 0x9A,
    algorithm: KeyAlgorithm = "p256",
    *,
    pin: str | AskPin = DEFAULT_KEY,
    request: KeyRequest | None = None,
) -> KeyDescription:
    token, uri = locate(card.uri(slot, YKCS11))
    return piv.generate_key(token, uri, PinSource.of(pin), request or KeyRequest(algorithm))


def describe(uri: str) -> KeyDescription:
    return piv.describe_key(*locate(uri))


def chain_of(card: YubiKey, ca: Authority, slot: int = 0x9A, *others: Authority) -> list[FoundCertificate]:
    """Return a leaf for the key in a slot, and the certificates of other authorities."""
    leaf = issue(ca, load_der_public_key(card.public_key(slot)))
    ders = [one.public_bytes(Encoding.DER) for one in (leaf, *(other.certificate for other in others))]
    return [FoundCertificate(der, "") for der in ders]


def install(
    card: YubiKey, chain: list[FoundCertificate], slot: int = 0x9A, pin: str | AskPin = DEFAULT_KEY
) -> InstalledCertificate:
    token, uri = locate(card.uri(slot, YKCS11))
    return piv.install_certificate(token, uri, PinSource.of(pin), chain)


def delete(card: YubiKey) -> None:
    management.delete_key(card.uri(0x9A, YKCS11), lambda _: pytest.fail("nothing is deleted"), DEFAULT_KEY)


def certificate_in(slot: str, folder: Path) -> bytes:
    """Return the certificate that yubico-piv-tool reads from a slot."""
    succeed("yubico-piv-tool", "-a", "read-certificate", "-s", slot, "-K", "DER", "-o", folder / "read.der")
    return (folder / "read.der").read_bytes()


def has_no_certificate(slot: str) -> bool:
    return "Failed" in fail("yubico-piv-tool", "-a", "read-certificate", "-s", slot)


def test_ykcs11s_token_alone_is_a_piv_card(yubikey: YubiKey) -> None:
    yubikey.write_chuid()
    yubikey.generate(0x9A)
    yubikey.self_sign(0x9A, "YubiKey PIV")
    assert piv.is_piv(locate(yubikey.uri(0x9A, YKCS11))[0].info)
    assert not piv.is_piv(locate(yubikey.uri(0x9A, OPENSC))[0].info)


def test_key_uris_of_a_card_lead_to_its_slots(yubikey: YubiKey, ca: Authority, tmp_path: Path) -> None:
    made = management.generate_key(yubikey.uri(0x9A, YKCS11), None, DEFAULT_KEY)
    assert management.describe_key(made.uri).properties == made.properties
    above = make_ca("Issuing CA", ca)
    chain = chain_of(yubikey, above, 0x9A, above)
    installed = management.install_certificate(made.uri, chain, DEFAULT_KEY)
    assert certificate_in("9a", tmp_path) == chain[0].der
    source = IdentitySource(installed.certificate, made.uri, intermediates=installed.intermediates, pin=yubikey.pin)
    with open_identity(source) as identity:
        assert identity.sign(b"message")
        assert [one.der for one in identity.chain.intermediates] == [chain[1].der]


# Making


@pytest.mark.parametrize(
    ("slot", "algorithm"), [(0x9A, "p256"), (0x9C, "p384"), (0x9E, "rsa2048"), (0x82, "p256"), (0x95, "p256")]
)
def test_new_key_is_in_its_slot_and_attested(
    yubikey: YubiKey, tmp_path: Path, slot: int, algorithm: KeyAlgorithm
) -> None:
    made = generate(yubikey, slot, algorithm)
    assert set(yubikey.state.keys) == {slot, 0xF9}
    assert made.public_key == yubikey.public_key(slot)
    key = load_der_public_key(yubikey.public_key(slot))
    if algorithm == "rsa2048":
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == {"p256": "secp256r1", "p384": "secp384r1"}[algorithm]
    name = f"{slot:02x}"
    succeed("yubico-piv-tool", "-a", "attest", "-s", name, "-K", "DER", "-o", tmp_path / "leaf.der")
    attested = x509.load_der_x509_certificate((tmp_path / "leaf.der").read_bytes()).public_key()
    assert attested.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == made.public_key
    assert has_no_certificate(name)
    assert made.place == f"slot {name} of token 'YubiKey PIV #{yubikey.serial}'"
    assert made.properties["pivSlot"] == name
    assert made.properties["local"] is True
    with open_key(made.uri, lambda _: yubikey.pin) as opened:
        hash_name: HashName = "sha384" if algorithm == "p384" else "sha256"
        signature = opened.sign(b"message", hash_name)
        assert openssl_verifies(tmp_path, made.public_key, signature, b"message", hash_name)


def test_new_key_without_policies_has_the_slots_own(yubikey: YubiKey) -> None:
    made = generate(yubikey, request=KeyRequest())
    assert (made.properties["pinPolicy"], made.properties["touchPolicy"]) == ("once", "never")


def test_module_that_sets_no_policies_is_named(yubikey: YubiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PKCS11Error(0x12)

    monkeypatch.setattr(WritingSession, "generate_key_pair", refuse)
    with pytest.raises(UnsupportedKeyError, match=r"version \d.* of /.*libykcs11\.so sets no PIN policy"):
        generate(yubikey, request=KeyRequest(touch_policy="cached"))


@judges.needs_libykcs11
@pytest.mark.parametrize("pin_policy", ["", "never", "once", "always"])
@pytest.mark.parametrize("touch_policy", ["", "never", "always", "cached"])
def test_policies_are_those_asked_for_or_the_slots_own(yubikey: YubiKey, pin_policy: str, touch_policy: str) -> None:
    request = KeyRequest(pin_policy=pin_policy, touch_policy=touch_policy)  # type: ignore[arg-type]
    made = generate(yubikey, request=request)
    stored = yubikey.state.keys[0x9A]
    assert stored.pin_policy == ["", "never", "once", "always"].index(pin_policy or "once")
    assert stored.touch_policy == ["", "never", "always", "cached"].index(touch_policy or "never")
    assert made.properties["pinPolicy"] == (pin_policy or "once")
    assert made.properties["touchPolicy"] == (touch_policy or "never")
    found = describe(made.uri)
    assert (found.uri, found.guards, found.properties) == (made.uri, made.guards, made.properties)


@judges.needs_libykcs11
@pytest.mark.parametrize("algorithm", ["rsa3072", "rsa4096"])
def test_long_rsa_keys_need_firmware_5_7(new_card: Callable[..., YubiKey], algorithm: KeyAlgorithm) -> None:
    card = new_card((5, 4, 3))
    person = Person()
    with pytest.raises(UnsupportedKeyError, match=r"from firmware 5\.7\.0, and this one has 5\.4\.3"):
        generate(card, 0x9A, algorithm, pin=person)
    assert set(card.state.keys) == {0xF9}
    card.remove()
    card = new_card(FIRMWARE_5_7)
    made = generate(card, 0x9A, algorithm)
    key = load_der_public_key(card.public_key(0x9A))
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == int(algorithm[3:])
    assert made.public_key == card.public_key(0x9A)
    assert made.properties["firmware"] == "5.7.4"


def test_ml_dsa_keys_are_refused_with_those_that_the_card_makes(new_card: Callable[..., YubiKey]) -> None:
    person = Person()
    card = new_card(FIRMWARE_5_7)
    with pytest.raises(UnsupportedKeyError, match="a PIV card has no mldsa65 keys") as caught:
        generate(card, 0x9A, "mldsa65", pin=person)
    assert caught.value.hint == "Use one of p256, p384, rsa2048, rsa3072, rsa4096"
    assert not person.asked


def test_weak_rsa_keys_of_old_firmware_are_not_made(new_card: Callable[..., YubiKey]) -> None:
    new_card((4, 3, 4))
    # libykcs11 asks such a card for its serial number in another way, which the emulated one does not know.
    token, uri = locate(f"pkcs11:id=%01?module-path={find_module(YKCS11)}")
    with pytest.raises(UnsupportedKeyError, match=r"from firmware 4\.3\.5, and this one has 4\.3\.4") as caught:
        piv.generate_key(token, uri, PinSource(DEFAULT_KEY), KeyRequest("rsa2048", overwrite=True))
    assert caught.value.hint == "Use one of p256, p384"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (KeyRequest("p521"), UnsupportedKeyError),
        (KeyRequest(always_authenticate=True), UsageError),
        (KeyRequest(accept_unproven=True), UsageError),
        (KeyRequest(noda=True), UsageError),
        (KeyRequest(pcrs="sha256:7"), UsageError),
    ],
)
def test_request_that_a_piv_card_can_t_meet_is_refused(
    yubikey: YubiKey, request_: KeyRequest, error: type[HwsignerError]
) -> None:
    person = Person()
    with pytest.raises(error):
        generate(yubikey, request=request_, pin=person)
    assert set(yubikey.state.keys) == {0xF9}


@pytest.mark.parametrize(
    "path", ["", "object=web", "id=%01;object=web", "id=%00", "id=%19", "id=", "id=%01%02", f"id={'%01' * 20}"]
)
def test_new_key_needs_the_one_byte_id_of_a_slot(yubikey: YubiKey, path: str) -> None:
    token, uri = locate(yubikey.uri(0x9A, YKCS11).replace("id=%01;type=private", path))
    with pytest.raises(UsageError):
        piv.generate_key(token, uri, PinSource(DEFAULT_KEY), KeyRequest())
    assert set(yubikey.state.keys) == {0xF9}


def occupy_with_generated_key(card: YubiKey) -> None:
    card.generate(0x9A)


def occupy_with_imported_key(card: YubiKey) -> None:
    card.import_key(0x9A, ec.generate_private_key(ec.SECP256R1()))


def occupy_with_certificate(card: YubiKey) -> None:
    card.write_certificate(0x9A, make_ca().certificate.public_bytes(Encoding.DER))


def occupy_with_unreadable_certificate(card: YubiKey) -> None:
    card.write_object(0x5FC105, b"\x70\x03abc\x71\x01\x00\xfe\x00")


@pytest.mark.parametrize(
    ("occupy", "what"),
    [
        (occupy_with_generated_key, "a key"),
        (occupy_with_imported_key, "a key"),
        (occupy_with_certificate, "a certificate"),
        (occupy_with_unreadable_certificate, "a certificate"),
    ],
)
def test_slot_that_holds_anything_is_overwritten_only_on_request(
    yubikey: YubiKey, occupy: Callable[[YubiKey], None], what: str
) -> None:
    occupy(yubikey)
    forget_cards()
    before = (dict(yubikey.state.keys), dict(yubikey.state.objects))
    person = Person()
    with pytest.raises(SigningKeyError, match=f"slot 9a of token 'YubiKey PIV #.*' has (a key and )?{what} already"):
        generate(yubikey, pin=person)
    assert (yubikey.state.keys, yubikey.state.objects) == before
    made = generate(yubikey, request=KeyRequest(overwrite=True))
    assert made.public_key == yubikey.public_key(0x9A)
    assert yubikey.state.keys[0x9A].generated
    # libykcs11 2.2 shows the key of a certificate, too.
    assert {f"slot 9a had {seen}{what}: what was in it is gone" for seen in ("", "a key and ")} & set(made.notes)


def test_key_that_is_made_while_the_management_key_is_asked_for_is_not_overwritten(yubikey: YubiKey) -> None:
    made = []

    def make_another(_: PinRequest) -> str:
        made.append(yubikey.generate(0x9A))
        return DEFAULT_KEY

    with pytest.raises(SigningKeyError, match=r"slot 9a of token 'YubiKey PIV #.*' has a key already"):
        generate(yubikey, pin=make_another)
    assert [yubikey.public_key(0x9A)] == made


def test_certificate_of_a_key_that_is_made_while_the_user_is_asked_stays(yubikey: YubiKey, ca: Authority) -> None:
    generate(yubikey)
    chain = chain_of(yubikey, ca)
    token, uri = locate(yubikey.uri(0x9A, YKCS11))

    def make_another(_: PinRequest) -> str:
        yubikey.generate(0x9A)
        yubikey.self_sign(0x9A, "new")
        return DEFAULT_KEY

    with pytest.raises(SigningKeyError, match=r"slot 9a of token .* was changed meanwhile, so nothing was done"):
        piv.install_certificate(token, uri, PinSource.of(make_another), chain)
    assert b"new".hex() in yubikey.state.objects[0x5FC105]


def test_slot_that_can_not_be_shown_to_be_empty_is_overwritten_only_on_request(
    new_card: Callable[..., YubiKey],
) -> None:
    card = new_card((5, 2, 7))
    occupy_with_imported_key(card)
    before = dict(card.state.keys)
    with pytest.raises(SigningKeyError, match=r"may have an imported key, which firmware 5\.2\.7 does not show"):
        generate(card, pin=Person())
    assert card.state.keys == before
    assert generate(card, request=KeyRequest(overwrite=True)).public_key == card.public_key(0x9A)


def test_old_module_does_not_show_that_a_slot_is_empty(yubikey: YubiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Functions.library
    monkeypatch.setattr(Functions, "library", lambda self: {**library(self), "library-version": "2.10"})
    with pytest.raises(SigningKeyError, match=r"imported key, which version 2\.10 of /.*libykcs11\.so does not show"):
        generate(yubikey, pin=Person())
    assert generate(yubikey, request=KeyRequest(overwrite=True)).public_key == yubikey.public_key(0x9A)


@judges.needs_libykcs11
def test_key_of_a_card_that_attests_nothing_is_read_back_without_its_policies(new_card: Callable[..., YubiKey]) -> None:
    card = new_card(FIRMWARE_5_7)
    del card.state.keys[0xF9]
    made = generate(card, request=KeyRequest(pin_policy="always"))
    assert made.public_key == card.public_key(0x9A)
    assert (made.properties["pinPolicy"], made.properties["local"]) == (None, True)
    assert any("is not shown" in note for note in made.notes)


@judges.needs_libykcs11
def test_key_that_was_not_made_as_asked_is_an_error(yubikey: YubiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    store = yubikey._applet.slots.store
    monkeypatch.setattr(
        yubikey._applet.slots,
        "store",
        lambda slot, key, policies, *, generated: store(slot, key, (1, 1), generated=generated),
    )
    with pytest.raises(SigningKeyError, match="not as asked for: its PIN policy is never; its touch policy is never"):
        generate(yubikey, request=KeyRequest(pin_policy="always", touch_policy="cached"))


def test_failed_generation_says_that_there_may_be_a_key(yubikey: YubiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tag: int, content: bytes) -> None:
        raise apdu.StatusError(0x6A84)

    monkeypatch.setattr(yubikey._applet, "write", refuse)
    with pytest.raises(SigningKeyError, match=r"could not make a key: .*; slot 9a may have a new key now"):
        generate(yubikey)
    assert 0x9A in yubikey.state.keys


def test_card_that_is_removed_meanwhile_may_have_a_key(yubikey: YubiKey, pcsc: SoftPcsc) -> None:
    def remove_then_answer(_: object) -> str:
        yubikey.remove()
        return DEFAULT_KEY

    with pytest.raises(SigningKeyError):
        generate(yubikey, pin=remove_then_answer)
    assert set(yubikey.state.keys) == {0xF9}
    yubikey.insert(pcsc)
    forget_cards()
    assert generate(yubikey).public_key == yubikey.public_key(0x9A)


def test_card_that_was_exchanged_meanwhile_is_not_changed(
    yubikey: YubiKey, pcsc: SoftPcsc, new_yubikey: Callable[..., YubiKey]
) -> None:
    other = new_yubikey()
    other.generate(0x9A)
    key = other.public_key(0x9A)

    def exchange_then_answer(_: object) -> str:
        yubikey.remove()
        other.insert(pcsc)
        return DEFAULT_KEY

    try:
        with pytest.raises(SigningKeyError):
            generate(yubikey, pin=exchange_then_answer)
        assert other.public_key(0x9A) == key
    finally:
        other.remove()
        yubikey.insert(pcsc)


# The management key


def test_default_management_key_is_noted(yubikey: YubiKey) -> None:
    for answer in (DEFAULT_KEY, "", f" {DEFAULT_KEY}\n"):
        made = generate(yubikey, pin=Person(answer), request=KeyRequest(overwrite=True))
        assert any("default management key, which is public" in note for note in made.notes)


@judges.needs_yubico_piv_tool
@pytest.mark.parametrize(("algorithm", "size"), [("TDES", 24), ("AES128", 16), ("AES192", 24), ("AES256", 32)])
def test_changed_management_key_is_asked_for(yubikey: YubiKey, algorithm: str, size: int) -> None:
    key = (OTHER_KEY + OTHER_KEY)[: 2 * size]
    succeed("yubico-piv-tool", "-a", "set-mgm-key", "-m", algorithm, "-n", key)
    person = Person(key.upper())
    made = generate(yubikey, pin=person)
    assert made.notes == ()
    (asked,) = person.asked
    assert asked.question == (
        f"management key for token 'YubiKey PIV #{yubikey.serial}' (in hexadecimal, or empty for the default)"
    )


def test_wrong_management_key_is_sent_once(yubikey: YubiKey) -> None:
    person = Person(OTHER_KEY)
    with pytest.raises(WrongPinError, match="wrong management key for token 'YubiKey PIV"):
        generate(yubikey, pin=person)
    refused = [entry for entry in yubikey.log if entry.startswith("87") and entry.endswith("6982")]
    assert len(refused) == 1
    assert len(person.asked) == 1
    assert set(yubikey.state.keys) == {0xF9}
    assert yubikey.pin_tries == []


@judges.needs_yubico_piv_tool
@pytest.mark.parametrize(("algorithm", "size"), [("TDES", 24), ("AES128", 16), ("AES192", 24), ("AES256", 32)])
def test_management_key_of_any_other_algorithm_is_wrong(yubikey: YubiKey, algorithm: str, size: int) -> None:
    key = (OTHER_KEY + OTHER_KEY)[: 2 * size]
    succeed("yubico-piv-tool", "-a", "set-mgm-key", "-m", algorithm, "-n", key)
    for other in (16, 24, 32):
        with pytest.raises(WrongPinError, match="wrong management key"):
            generate(yubikey, pin=Person("fedcba9876543210" * 2 + "00" * (other - 16)))
    assert set(yubikey.state.keys) == {0xF9}


@pytest.mark.parametrize("answer", ["123456", "12345678", DEFAULT_KEY + "00", "x" * 48, "0" * 20, "ü" * 48])
def test_pin_and_other_texts_are_not_sent_as_a_management_key(yubikey: YubiKey, answer: str) -> None:
    with pytest.raises(PinError, match="so it was not sent") as caught:
        generate(yubikey, pin=answer)
    assert answer not in str(caught.value)
    assert yubikey.pin_tries == []
    assert not any(entry.startswith("87") for entry in yubikey.log)


def test_credential_of_the_cards_pin_is_not_its_management_key(
    yubikey: YubiKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"hwsigner.pin.{yubikey.serial}").write_text(yubikey.pin)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    token, uri = locate(yubikey.uri(0x9A, YKCS11))
    with pytest.raises(PinRequiredError, match="needs its management key, and none was given"):
        piv.generate_key(token, uri, PinSource(), KeyRequest())


def test_open_key_of_the_card_keeps_it_from_being_changed(yubikey: YubiKey) -> None:
    yubikey.generate(0x9C)
    forget_cards()
    with (
        open_key(yubikey.uri(0x9C, YKCS11), yubikey.pin) as key,
        pytest.raises(SigningKeyError, match="can't be changed while one of its keys is open"),
    ):
        generate(yubikey, pin=Person())
    assert key.algorithm
    assert set(yubikey.state.keys) == {0x9C, 0xF9}


# Describing


def test_attested_key_is_described_by_its_attestation(yubikey: YubiKey) -> None:
    yubikey.generate(0x9C, touch_policy=3)
    found = describe(yubikey.uri(0x9C, YKCS11))
    assert found.public_key == yubikey.public_key(0x9C)
    assert found.guards == (
        "Each signature needs the card's PIN",
        "Signatures need a touch, which counts for 15 seconds",
        "The card made it, says its attestation certificate, and no command reads it out",
    )
    assert found.properties == {
        "token": f"YubiKey PIV #{yubikey.serial}",
        "serial": str(yubikey.serial),
        "firmware": "5.4.3",
        "module": find_module(YKCS11),
        "id": "02",
        "pivSlot": "9c",
        "pinPolicy": "always",
        "touchPolicy": "cached",
        "local": True,
        "extractable": False,
    }
    assert found.notes == ()
    assert found.uri.startswith(
        f"pkcs11:token=YubiKey%20PIV%20%23{yubikey.serial};serial={yubikey.serial};id=%02;type=private"
    )
    assert yubikey.pin_tries == []


def test_imported_key_is_described_as_one_that_may_have_copies(yubikey: YubiKey) -> None:
    occupy_with_imported_key(yubikey)
    forget_cards()
    found = describe(yubikey.uri(0x9A, YKCS11))
    assert found.public_key == yubikey.public_key(0x9A)
    assert found.guards == ("No command reads it out, but it may have been imported, and there may be copies of it",)
    assert (found.properties["local"], found.properties["pinPolicy"]) == (None, None)
    assert found.notes == ("Whether it needs the PIN or a touch is not shown: only an attestation of the card says it",)


def test_key_is_found_without_an_id_if_it_is_the_only_one(yubikey: YubiKey) -> None:
    token = yubikey.uri(0x9A, YKCS11).replace("id=%01;type=private", "")
    with pytest.raises(KeyNotFoundError) as caught:
        describe(token)
    assert caught.value.hint == "Make one with hwsigner keygen"
    yubikey.generate(0x82)
    yubikey.self_sign(0x82, "web")
    forget_cards()
    assert describe(token).properties["pivSlot"] == "82"
    with pytest.raises(KeyNotFoundError) as caught:
        describe(yubikey.uri(0x9A, YKCS11))
    assert caught.value.hint == "Slots with a key: 82"
    yubikey.generate(0x9A)
    forget_cards()
    with pytest.raises(AmbiguousKeyError) as ambiguous:
        describe(token)
    assert ambiguous.value.hint == "Use one of id=%01 (slot 9a), id=%05 (slot 82)"


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ({3: b"\x05\x07\x04", 8: b"\x02\x03"}, ("5.7.4", "once", "cached")),
        ({8: b""}, ("", "", "")),
        ({3: b"", 8: b"\x04"}, ("", "", "")),  # Policies for fingerprints are not known here.
        ({8: b"\x01\x02\x03"}, ("", "never", "always")),
    ],
)
def test_attestation_is_read_as_far_as_it_is_whole(
    extensions: dict[int, bytes], expected: tuple[str, str, str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "attestation")])
    begin = datetime(2016, 3, 14, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + timedelta(days=1))
    for number, value in extensions.items():
        oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.41482.3.{number}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    read = Attestation.read(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
    assert (read.firmware, read.pin_policy, read.touch_policy) == expected
    assert read.public_key == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"no certificate"])
def test_attestation_that_is_no_certificate_says_nothing(der: bytes) -> None:
    assert Attestation.read(der) == Attestation(None, "", "", "")


# Certificates


def test_leaf_is_in_the_slot_and_the_chain_in_a_file(yubikey: YubiKey, ca: Authority, tmp_path: Path) -> None:
    above = make_ca("Issuing CA", ca)
    generate(yubikey)
    chain = chain_of(yubikey, above, 0x9A, above)
    installed = install(yubikey, chain)
    assert certificate_in("9a", tmp_path) == chain[0].der
    (found,) = find_certificates(installed.certificate)
    assert found.der == chain[0].der
    assert Path(installed.intermediates).read_bytes() == above.pem
    assert Path(installed.intermediates).stat().st_mode & 0o777 == 0o600
    assert any("default management key" in note for note in installed.notes)
    with open_key(installed.certificate, yubikey.pin) as key:
        assert key.public_key() == yubikey.public_key(0x9A)


def test_each_chain_has_its_own_file(yubikey: YubiKey, ca: Authority) -> None:
    generate(yubikey)
    first, second = make_ca("First", ca), make_ca("Second", ca)
    files = [install(yubikey, chain_of(yubikey, one, 0x9A, one)).intermediates for one in (first, second, first)]
    assert files[0] == files[2] != files[1]
    assert [Path(file).read_bytes() for file in files] == [first.pem, second.pem, first.pem]
    assert install(yubikey, chain_of(yubikey, ca)).intermediates == ""


def test_certificate_replaces_the_former_one(yubikey: YubiKey, ca: Authority, tmp_path: Path) -> None:
    generate(yubikey)
    for _ in range(2):
        chain = chain_of(yubikey, ca)
        install(yubikey, chain)
        assert certificate_in("9a", tmp_path) == chain[0].der


def test_certificate_of_another_key_is_refused(yubikey: YubiKey, ca: Authority) -> None:
    generate(yubikey, 0x9A)
    generate(yubikey, 0x9C)
    with pytest.raises(KeyMismatchError, match="not that of the key in slot 9c"):
        install(yubikey, chain_of(yubikey, ca, 0x9A), 0x9C, pin=Person())
    assert has_no_certificate("9c")


def test_certificate_needs_a_key(yubikey: YubiKey, ca: Authority) -> None:
    generate(yubikey, 0x9A)
    with pytest.raises(KeyNotFoundError):
        install(yubikey, chain_of(yubikey, ca, 0x9A), 0x9C, pin=Person())


@pytest.mark.parametrize("has_former", [True, False])
def test_former_certificate_is_in_the_slot_after_a_failed_write(
    yubikey: YubiKey, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_former: bool
) -> None:
    generate(yubikey)
    former = chain_of(yubikey, ca)
    if has_former:
        install(yubikey, former)

    def refuse(tag: int, content: bytes) -> None:
        raise apdu.StatusError(0x6A84)

    with monkeypatch.context() as patch:
        patch.setattr(yubikey._applet, "write", refuse)
        with pytest.raises(SigningKeyError, match="was not written into slot 9a of token") as caught:
            install(yubikey, chain_of(yubikey, ca))
    expected = "The former one is in it" if has_former else "It has no certificate, as before"
    assert caught.value.hint == expected
    if has_former:
        assert certificate_in("9a", tmp_path) == former[0].der
    else:
        assert has_no_certificate("9a")


@pytest.mark.parametrize("has_former", [True, False])
def test_former_certificate_is_written_back_if_the_card_has_garbled_the_new_one(
    yubikey: YubiKey, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_former: bool
) -> None:
    generate(yubikey)
    former, new = chain_of(yubikey, ca), chain_of(yubikey, ca)
    if has_former:
        install(yubikey, former)
    write = yubikey._applet.write

    def garble(tag: int, content: bytes) -> None:
        write(tag, content.replace(new[0].der, chain_of(yubikey, ca)[0].der))

    with monkeypatch.context() as patch:
        patch.setattr(yubikey._applet, "write", garble)
        with pytest.raises(SigningKeyError, match="the card shows another one than was written"):
            install(yubikey, new)
    if has_former:
        assert certificate_in("9a", tmp_path) == former[0].der
    else:
        assert has_no_certificate("9a")


def test_removed_card_leaves_unknown_what_is_in_the_slot(
    yubikey: YubiKey, pcsc: SoftPcsc, ca: Authority, tmp_path: Path
) -> None:
    generate(yubikey)
    former = chain_of(yubikey, ca)
    install(yubikey, former)

    def remove_then_answer(_: object) -> str:
        yubikey.remove()
        return DEFAULT_KEY

    with pytest.raises(SigningKeyError):
        install(yubikey, chain_of(yubikey, ca), pin=remove_then_answer)
    yubikey.insert(pcsc)
    forget_cards()
    assert certificate_in("9a", tmp_path) == former[0].der


def long_leaf(card: YubiKey, ca: Authority, names: int) -> list[FoundCertificate]:
    """Return a leaf with that many names of over 60 bytes each."""
    leaf = issue(ca, load_der_public_key(card.public_key(0x9A)))
    dns = x509.SubjectAlternativeName([x509.DNSName(f"{'x' * 50}{number}.example") for number in range(names)])
    builder = (
        x509.CertificateBuilder(leaf.issuer, leaf.subject, leaf.public_key(), leaf.serial_number)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .add_extension(dns, critical=False)
    )
    return [FoundCertificate(builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.DER), "")]


def test_long_certificate_is_installed_unless_it_does_not_fit(yubikey: YubiKey, ca: Authority, tmp_path: Path) -> None:
    generate(yubikey)
    long = long_leaf(yubikey, ca, 40)
    assert len(long[0].der) > 2700
    install(yubikey, long)
    assert certificate_in("9a", tmp_path) == long[0].der
    with pytest.raises(SigningKeyError, match="was not written into slot 9a") as caught:
        install(yubikey, long_leaf(yubikey, ca, 60))
    assert caught.value.hint == "The former one is in it"
    assert certificate_in("9a", tmp_path) == long[0].der


# Killed


CODE = """
import sys
from hwsigner.backends.pkcs11 import piv
from hwsigner.backends.pkcs11.piv_slots import Attestation
from hwsigner.backends.pkcs11.search import choose_token
from hwsigner.key import FoundCertificate
from hwsigner.key.management import KeyRequest
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI

uri = KeyURI.parse(sys.argv[1])
place = choose_token(uri, None), uri, PinSource("0102030405060708" * 3)
if sys.argv[2:]:
    piv.install_certificate(*place, [FoundCertificate(bytes.fromhex(sys.argv[2]), "")])
else:
    piv.generate_key(*place, KeyRequest())
"""


def run_until_written(card: YubiKey, monkeypatch: pytest.MonkeyPatch, *arguments: str, is_written: bool) -> None:
    """Run a process with the card and kill it when the card gets a certificate, before or after that is written."""
    write = card._applet.write
    process = subprocess.Popen([sys.executable, "-c", CODE, card.uri(0x9A, YKCS11), *arguments], env=os.environ)

    def kill(tag: int, content: bytes) -> None:
        if is_written:
            write(tag, content)
        process.kill()
        process.wait()
        raise apdu.StatusError(0x6F00)

    with monkeypatch.context() as patch:
        patch.setattr(card._applet, "write", kill)
        assert process.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("is_written", [False, True])
def test_killed_process_leaves_an_unused_key_that_the_next_one_names(
    yubikey: YubiKey, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    run_until_written(yubikey, monkeypatch, is_written=is_written)
    assert yubikey.state.keys[0x9A].generated
    what = "a key and a certificate" if is_written else "a key"
    with pytest.raises(SigningKeyError, match=f"slot 9a of token .* has {what} already"):
        generate(yubikey, pin=Person())
    made = generate(yubikey, request=KeyRequest(overwrite=True))
    assert made.public_key == yubikey.public_key(0x9A)


@pytest.mark.parametrize("is_written", [False, True])
def test_killed_process_leaves_the_former_certificate_or_the_new_one(
    yubikey: YubiKey, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    generate(yubikey)
    former, new = chain_of(yubikey, ca), chain_of(yubikey, ca)
    install(yubikey, former)
    run_until_written(yubikey, monkeypatch, new[0].der.hex(), is_written=is_written)
    assert certificate_in("9a", tmp_path) == (new if is_written else former)[0].der


# Deleting


def test_key_of_old_firmware_is_not_deleted(yubikey: YubiKey, ca: Authority, tmp_path: Path) -> None:
    generate(yubikey)
    chain = chain_of(yubikey, ca)
    install(yubikey, chain)
    with pytest.raises(SigningKeyError) as caught:
        delete(yubikey)
    assert caught.value.message == (
        f"the key in slot 9a of token 'YubiKey PIV #{yubikey.serial}' was not deleted: "
        "libykcs11 reports success and keeps it, and YubiKeys before firmware 5.7 can't delete keys"
    )
    assert certificate_in("9a", tmp_path) == chain[0].der
    assert 0x9A in yubikey.state.keys


@judges.needs_libykcs11
def test_key_of_firmware_5_7_needs_another_tool_to_be_deleted(new_card: Callable[..., YubiKey], ca: Authority) -> None:
    card = new_card(FIRMWARE_5_7)
    generate(card)
    install(card, chain_of(card, ca))
    with pytest.raises(SigningKeyError, match=r"libykcs11 reports success and keeps it\. Delete it with") as caught:
        delete(card)
    succeed(*caught.value.hint.removeprefix("Delete it with ").split())
    assert set(card.state.keys) == {0xF9}
    assert has_no_certificate("9a")
    with pytest.raises(KeyNotFoundError):
        delete(card)
