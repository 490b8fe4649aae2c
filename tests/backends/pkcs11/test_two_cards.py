"""Two emulated YubiKeys at once, through both modules: which of them gets a PIN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.contract import openssl_verifies
from hwsigner.errors import AmbiguousKeyError, PinRequiredError, TokenRemovedError
from hwsigner.key import find_certificates, open_key
from hwsigner.key.listing import list_tokens
from pkcs11_shim import Person
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import OPENSC, YKCS11, YubiKey, find_module
from yubikeys import forget_cards

SLOT = 0x9A
Cards = tuple[YubiKey, YubiKey]


@pytest.fixture(params=[YKCS11, OPENSC])
def module(request: pytest.FixtureRequest) -> str:
    return find_module(request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cards]:
    """Two cards with the same serial number."""
    cards = tuple(YubiKey(tmp_path_factory.mktemp("card") / "card.json", 20000001) for _ in range(2))
    yield cards[0], cards[1]
    for card in cards:
        card.remove()


@pytest.fixture
def twins(made: Cards, pcsc: SoftPcsc) -> Cards:
    """Two cards with the same details in both readers, each with its own key, and with no PIN tries counted."""
    for reader, card in enumerate(made):
        if card.reader != reader:
            card.remove()
        prepare(card)
    for reader, card in enumerate(made):
        card.insert(pcsc, reader)
    forget_cards()
    return made


def prepare(card: YubiKey) -> None:
    card.factory_reset()
    card.generate(SLOT)
    card.self_sign(SLOT, "hwsigner")


def places(module: str) -> list[str]:
    """Return the URIs of the keys, as listed."""
    everything = list(list_tokens(f"pkcs11:?module-path={module}"))
    return [token.uri.replace("?", ";id=%01?") for token in everything]


def test_cards_with_a_chuid_are_named_by_their_serial_numbers(
    new_yubikey: Callable[[], YubiKey], made: Cards, pcsc: SoftPcsc, module: str
) -> None:
    cards = [new_yubikey() for _ in range(2)]
    for card in made:
        card.remove()
    for reader, card in enumerate(cards):
        prepare(card)
        card.write_chuid()
        card.insert(pcsc, reader)
    forget_cards()
    uris = places(module)
    assert not any("slot-id" in uri for uri in uris)
    for uri, card in zip(uris, cards, strict=True):
        with open_key(uri, card.pin) as key:
            assert key.public_key() == card.public_key(SLOT)
    assert [card.pin_tries for card in cards] == [[0x9000]] * 2
    for card in cards:
        card.remove()


def test_cards_with_the_same_details_are_named_by_their_slots(twins: Cards, module: str, tmp_path: Path) -> None:
    uris = places(module)
    for uri, card in zip(uris, twins, strict=True):
        assert "slot-id=" in uri
        with open_key(uri, card.pin) as key:
            signature = key.sign(b"message")
        assert openssl_verifies(tmp_path, card.public_key(SLOT), signature, b"message", "sha256")
    assert [card.pin_tries for card in twins] == [[0x9000]] * 2


def test_no_pin_is_sent_when_both_cards_match(twins: Cards, module: str) -> None:
    with pytest.raises(AmbiguousKeyError, match="names 2 tokens") as caught:
        open_key(f"pkcs11:id=%01?module-path={module}", twins[0].pin)
    assert caught.value.message.count("slot-id=") == 2
    with pytest.raises(AmbiguousKeyError, match="a PIN goes to one") as caught:
        list(list_tokens(f"pkcs11:?module-path={module}", twins[0].pin, log_in=True))
    assert caught.value.message.count("slot-id=") == 2
    assert [card.pin_tries for card in twins] == [[], []]


def test_certificate_decides_between_cards(twins: Cards, module: str) -> None:
    uri = f"pkcs11:id=%01?module-path={module}"
    with open_key(uri, twins[1].pin, public_key=twins[1].public_key(SLOT)) as key:
        assert key.public_key() == twins[1].public_key(SLOT)
    assert [card.pin_tries for card in twins] == [[], [0x9000]]


@pytest.mark.parametrize("is_typed", [True, False])
def test_other_card_gets_no_pin_when_one_is_removed(twins: Cards, pcsc: SoftPcsc, module: str, is_typed: bool) -> None:
    pin = Person(twins[0].pin) if is_typed else twins[0].pin
    with open_key(places(module)[0], pin) as key:
        assert key.sign(b"message")
        twins[0].remove()
        with pytest.raises(TokenRemovedError):
            key.sign(b"message")
        twins[1].remove()
        twins[1].insert(pcsc, 0)
        for _ in range(2):
            with pytest.raises(TokenRemovedError):
                key.sign(b"message")
        assert twins[1].pin_tries == []
        twins[1].remove()
        twins[0].insert(pcsc, 0)
        assert key.sign(b"message")
    assert twins[1].pin_tries == []
    assert set(twins[0].pin_tries) == {0x9000}


def test_other_card_in_the_slot_is_recognised_by_its_key(twins: Cards, pcsc: SoftPcsc, module: str) -> None:
    twins[1].remove()
    forget_cards()
    with open_key(places(module)[0], Person(twins[0].pin)) as key:
        assert key.sign(b"message")
        twins[0].remove()
        with pytest.raises(TokenRemovedError):
            key.sign(b"message")
        twins[1].insert(pcsc, 0)
        with pytest.raises(TokenRemovedError, match="and other keys"):
            key.sign(b"message")
    assert twins[1].pin_tries == []


def test_stored_pin_is_not_sent_to_a_token_with_other_keys_when_the_uri_names_no_token(
    twins: Cards, module: str
) -> None:
    twins[1].remove()
    forget_cards()
    uri, other = f"pkcs11:?module-path={module}", twins[1].public_key(SLOT)
    with pytest.raises(PinRequiredError, match="shows only other keys") as caught:
        open_key(uri, twins[0].pin, public_key=other)
    assert "write pkcs11:token=" in caught.value.hint
    with pytest.raises(PinRequiredError, match="shows only other keys"):
        open_key(f"pkcs11:id=%17?module-path={module}", twins[0].pin)
    assert twins[0].pin_tries == []
    for public_key in (None, twins[0].public_key(SLOT)):
        open_key(f"pkcs11:id=%01?module-path={module}", twins[0].pin, public_key=public_key).close()
    assert twins[0].pin_tries == [0x9000] * 2


def test_certificates_are_found_on_both_cards_without_a_pin(twins: Cards, module: str) -> None:
    found = find_certificates(f"pkcs11:id=%01?module-path={module}", twins[0].pin)
    assert len({one.uri for one in found if "slot-id=" in one.uri}) >= 2
    assert [card.pin_tries for card in twins] == [[], []]
