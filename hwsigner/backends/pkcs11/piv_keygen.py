"""Making a key in a slot of a PIV card behind libykcs11."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, TokenInfo, from_number
from hwsigner.backends.pkcs11.piv_card import ManagedCard, delete_certificate, managing
from hwsigner.backends.pkcs11.piv_slots import (
    PIN_POLICIES,
    TOUCH_POLICIES,
    PIVSlot,
    describe,
    firmware,
    named_slot,
)
from hwsigner.backends.pkcs11.search import FoundToken
from hwsigner.backends.pkcs11.writing import FALSE, TRUE
from hwsigner.errors import SigningKeyError, UnsupportedKeyError, UsageError
from hwsigner.management import KeyAlgorithm, KeyDescription, KeyRequest
from hwsigner.pins import PinSource
from hwsigner.system.notices import waiting
from hwsigner.uri import KeyURI

# CKA_YUBICO_TOUCH_POLICY and CKA_YUBICO_PIN_POLICY, a byte each.
_TOUCH_POLICY, _PIN_POLICY = 0xD9554201, 0xD9554202
_RSA_KEY_PAIR_GEN, _EC_KEY_PAIR_GEN = 0x0000, 0x1040
# From this firmware on, a card says of each slot whether it has a key. Before, it shows only keys made on the card.
_FIRST_WITH_METADATA = (5, 3, 0)
# The first libykcs11 seen to read that, 2.7.0, by its own number.
_FIRST_TO_READ_METADATA = (2, 70)


class _Kind(NamedTuple):
    """How to ask for a kind of key, and how to recognise it."""

    mechanism: int
    template: Mapping[int, bytes]
    since: tuple[int, int, int]
    curve: bytes = b""
    bits: int = 0


def _ec(oid: str) -> _Kind:
    curve = bytes.fromhex(oid)
    return _Kind(_EC_KEY_PAIR_GEN, {Attribute.EC_PARAMS: curve}, (4, 0, 0), curve=curve)


def _rsa(bits: int, since: tuple[int, int, int]) -> _Kind:
    return _Kind(_RSA_KEY_PAIR_GEN, {Attribute.MODULUS_BITS: from_number(bits)}, since, bits=bits)


# The chips before 4.3.5 make RSA keys that can be computed from their public keys (ROCA, CVE-2017-15361).
_KINDS: dict[KeyAlgorithm, _Kind] = {
    "p256": _ec("06082a8648ce3d030107"),
    "p384": _ec("06052b81040022"),
    "rsa2048": _rsa(2048, (4, 3, 5)),
    "rsa3072": _rsa(3072, (5, 7, 0)),
    "rsa4096": _rsa(4096, (5, 7, 0)),
}


def generate_key(token: FoundToken, uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
    """Make a key in the slot that a URI names by its `id`. The PIN that is asked for is the card's management key.

    Raises:
        UsageError: the URI names no slot, or a label; or something was asked for that PIV cards do not have.
        UnsupportedKeyError: the card makes no such keys.
        SigningKeyError: the slot is not empty, or can't be shown to be; or the card failed, or made another key.
        PinError: the management key is missing, wrong (it was sent once), or not one.
    """
    key_id = _new_slot(uri)
    kind = _kind(request, token.info)
    with managing(token) as card:
        name = card.token.name
        if not request.overwrite:
            _check_empty(card, PIVSlot.read(card.session, key_id))
        card.ask(uri, pins)
        before = PIVSlot.read(card.session, key_id)
        if not request.overwrite:
            _check_empty(card, before)
        notes = card.log_in(uri, pins)
        try:
            with waiting(f"{name} is making the {request.algorithm} key, which may take a minute"):
                card.session.generate_key_pair(
                    kind.mechanism, {Attribute.ID: key_id, **kind.template}, _private_template(key_id, request)
                )
            _remove_placeholder(card, key_id)
            card.reopen()
            after = PIVSlot.read(card.session, key_id)
        except (PKCS11Error, SigningKeyError) as error:
            failed = card.token.failure("could not make a key", error) if isinstance(error, PKCS11Error) else error
            raise type(failed)(f"{failed.message}; {before.name} may have a new key now", failed.hint) from error
        problem = "; ".join(_differences(before, after, kind, request))
        if problem:
            hint = "libykcs11 can't delete it: make another one with --overwrite"
            raise SigningKeyError(f"the key that {name} made in {before.name} is not as asked for: {problem}", hint)
        if before.content:
            notes = (f"{before.name} had {before.content}: what was in it is gone", *notes)
        return describe(card.token, uri, after, notes)


def _new_slot(uri: KeyURI) -> bytes:
    """Return the CKA_ID of the slot for a new key."""
    if "object" in uri.path:
        raise UsageError("a PIV card gives its keys their labels", "Leave object= out of the key URI")
    key_id = named_slot(uri)
    if key_id is None:
        hint = "Add id=%01 for slot 9a, which most programs use, or the id of another one"
        raise UsageError(f"{uri.name} names no slot of the PIV card", hint)
    return key_id


def _kind(request: KeyRequest, info: TokenInfo) -> _Kind:
    """Return how to ask for a key.

    Raises:
        UsageError: something else was asked for that PIV cards do not have.
        UnsupportedKeyError: the card makes no such keys.
    """
    if request.always_authenticate:
        raise UsageError("--always-authenticate does not apply to PIV cards", "Use --pin-policy always")
    request.require_only("pin_policy", "touch_policy", "overwrite", scheme="pkcs11")
    kind = _KINDS.get(request.algorithm)
    if kind is None:
        raise UnsupportedKeyError(f"a PIV card has no {request.algorithm} keys", f"Use one of {', '.join(_KINDS)}")
    version = firmware(info)
    if version < kind.since:
        able = [name for name, one in _KINDS.items() if version >= one.since]
        since, has = (".".join(map(str, number)) for number in (kind.since, version))
        raise UnsupportedKeyError(
            f"YubiKeys make {request.algorithm} keys from firmware {since}, and this one has {has}",
            f"Use one of {', '.join(able)}" if able else "Use a newer YubiKey",
        )
    return kind


def _check_empty(card: ManagedCard, slot: PIVSlot) -> None:
    """Check that a slot shows nothing, and that a key that was imported into it would be shown.

    Raises:
        SigningKeyError: one of these is not so.
    """
    place = f"{slot.name} of {card.token.name}"
    if slot.content:
        hint = "Name another slot, or add --overwrite to lose what is in it"
        raise SigningKeyError(f"{place} has {slot.content} already", hint)
    version = card.token.module.functions.library()["library-version"]
    silent = ""
    if firmware(card.token.info) < _FIRST_WITH_METADATA:
        silent = f"firmware {'.'.join(map(str, firmware(card.token.info)))}"
    elif tuple(map(int, version.split("."))) < _FIRST_TO_READ_METADATA:
        silent = f"version {version} of {card.token.module.path}"
    if silent:
        hint = "Add --overwrite if no key in it is needed"
        raise SigningKeyError(f"{place} may have an imported key, which {silent} does not show", hint)


def _private_template(key_id: bytes, request: KeyRequest) -> dict[int, bytes]:
    """Return the attributes of a new private key. libykcs11 refuses CKA_MODIFIABLE and ignores CKA_SIGN."""
    return {
        Attribute.ID: key_id,
        Attribute.TOKEN: TRUE,
        Attribute.PRIVATE: TRUE,
        Attribute.SENSITIVE: TRUE,
        Attribute.EXTRACTABLE: FALSE,
        _PIN_POLICY: bytes([PIN_POLICIES.index(request.pin_policy)]),
        _TOUCH_POLICY: bytes([TOUCH_POLICIES.index(request.touch_policy)]),
    }


def _remove_placeholder(card: ManagedCard, key_id: bytes) -> None:
    """Delete the certificate that libykcs11 makes up for a new key, with an invalid signature.

    It stays if the card does not attest the key, since older cards show the key by its certificate alone.
    """
    if PIVSlot.read(card.session, key_id).attestation:
        delete_certificate(card, key_id)


def _differences(before: PIVSlot, after: PIVSlot, kind: _Kind, request: KeyRequest) -> Iterator[str]:
    """Yield how a new key differs from what was asked for, as the card shows it."""
    key, attestation = after.key, after.attestation
    if key is None or key.public_key is None:
        yield "the card shows no key"
        return
    if (key.curve, key.bits) != (kind.curve, kind.bits):
        yield f"it is not a {request.algorithm} key"
    if key.public_key == before.public_key:
        yield "it is the former key"
    if attestation is None:
        return
    if attestation.public_key != key.public_key:
        yield "the attestation certificate is that of another key"
    if request.pin_policy not in ("", attestation.pin_policy):
        yield f"its PIN policy is {attestation.pin_policy or 'unknown'}"
    if request.touch_policy not in ("", attestation.touch_policy):
        yield f"its touch policy is {attestation.touch_policy or 'unknown'}"
