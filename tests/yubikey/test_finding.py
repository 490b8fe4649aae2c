"""Finding keys and certificates on a YubiKey, through OpenSC's module and libykcs11. Judge: p11tool."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from hwsigner._identity import IdentitySource, open_identity
from hwsigner._pins import PinRequest
from hwsigner.errors import AmbiguousKeyError
from hwsigner.key import find_certificates, open_key
from hwsigner.key.listing import ListedToken, list_tokens
from hwsigner.key.public_key import verify
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import OPENSC, YKCS11, YubiKey, find_module
from yubikeys import succeed

KINDS = {0x9A: "EC:P-256", 0x9C: "EC:P-384"}
IDS = {0x9A: b"\x01", 0x9C: b"\x02"}
ROOT = certs.make_ca("root")
LOWER = certs.make_ca("lower", ROOT)
LEAVES = {0x9A: certs.LEAF, 0x9C: certs.Shape("signature")}


@pytest.fixture(params=[OPENSC, YKCS11])
def module(request: pytest.FixtureRequest) -> str:
    return find_module(request.param)


@pytest.fixture(scope="module")
def card(pcsc: SoftPcsc, new_yubikey: Callable[[], YubiKey]) -> YubiKey:
    """A card with a key and a certificate in 9a and 9c; the CA's certificate is in a slot for retired keys.

    It stays as it is: modules keep what they have read of a card.
    """
    yubikey = new_yubikey()
    for slot, kind in KINDS.items():
        yubikey.generate(slot, kind)
        der = certs.issue(LOWER, yubikey.public_key(slot), LEAVES[slot]).public_bytes(Encoding.DER)
        yubikey.write_certificate(slot, der)
    yubikey.write_certificate(0x82, LOWER.certificate.public_bytes(Encoding.DER))
    yubikey.insert(pcsc)
    return yubikey


def subject(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).subject.rfc4514_string()


def refuse(request: PinRequest) -> str:
    raise AssertionError(f"asked for the {request.kind} of {request.subject}")


def listed(module: str, pin: str | None = None) -> ListedToken:
    (token,) = list_tokens(f"pkcs11:?module-path={module}", pin or refuse, log_in=pin is not None)
    return token


def test_list_sends_no_pin_and_its_uris_open_the_keys(card: YubiKey, module: str) -> None:
    tries = len(card.pin_tries)
    token = listed(module)
    assert (token.pin_state, token.wants_login, len(card.pin_tries)) == ("good", True, tries)
    hidden = {one.id: one for one in token.objects if one.is_hidden}
    assert set(IDS.values()) <= set(hidden)
    for slot, key_id in IDS.items():
        assert hidden[key_id].public_key == card.public_key(slot)
        with open_key(hidden[key_id].uri, card.pin) as key:
            assert key.public_key() == card.public_key(slot)


def test_list_has_the_keys_themselves_after_a_login(card: YubiKey, module: str) -> None:
    tries = len(card.pin_tries)
    keys = {one.id: one for one in listed(module, card.pin).objects if one.kind == "key"}
    assert card.pin_tries[tries:] == [0x9000]
    assert [keys[key_id].pin_for_each_signature for key_id in IDS.values()] == [False, True]
    assert not any(one.is_hidden for one in keys.values())
    for slot, key_id in IDS.items():
        with open_key(keys[key_id].uri, card.pin) as key:
            assert key.public_key() == card.public_key(slot)


def test_uri_of_each_listed_certificate_names_it_alone(card: YubiKey, module: str) -> None:
    certificates = [one for one in listed(module).objects if one.kind == "certificate"]
    assert len({one.uri for one in certificates}) == len(certificates) >= len(IDS)
    for one in certificates:
        (found,) = find_certificates(one.uri, refuse)
        # The card creates a new attestation certificate each time it is read.
        assert subject(found.der) == subject(one.certificate or b"")


def test_uris_of_p11tool_open_the_keys(card: YubiKey, module: str) -> None:
    printed = succeed("p11tool", "--provider", module, "--list-all", "--only-urls")
    urls = [line for line in printed.splitlines() if line.startswith("pkcs11:") and "type=public" in line]
    for slot, key_id in IDS.items():
        (url,) = [one for one in urls if f";id=%{key_id.hex().upper()};" in one]
        with open_key(f"{url}?module-path={module}", card.pin) as key:
            assert key.public_key() == card.public_key(slot)


def test_leaf_is_the_certificate_of_the_user_and_not_the_attestation(card: YubiKey, module: str) -> None:
    found = find_certificates(f"pkcs11:id=%01?module-path={module}", refuse)
    assert len(found) == (2 if module.endswith(YKCS11) else 1)
    with open_identity(IdentitySource(f"pkcs11:id=%01?module-path={module}", pin=card.pin)) as identity:
        assert identity.chain.leaf.subject.startswith("CN=bamboo-01")
        assert identity.sign(b"message")
        if module.endswith(YKCS11):  # OpenSC shows a retired key's certificate only if a key history names it.
            assert [one.x509 for one in identity.chain.intermediates] == [LOWER.certificate]


def test_certificate_file_decides_among_the_keys_of_the_card(card: YubiKey, module: str) -> None:
    with open_key(f"pkcs11:?module-path={module}", card.pin, public_key=card.public_key(0x9A)) as key:
        assert verify(card.public_key(0x9A), b"message", signature=key.sign(b"message"))
    with pytest.raises(AmbiguousKeyError) as caught:
        open_key(f"pkcs11:?module-path={module}", card.pin)
    for uri in caught.value.hint.removeprefix("Use one of: ").split(", "):
        open_key(uri, card.pin).close()
