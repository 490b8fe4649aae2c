"""Making a key in a slot of a PIV card behind libykcs11."""

from __future__ import annotations

from collections.abc import Iterator

from hwsigner._pins import PinSource
from hwsigner._system.notices import waiting
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.errors import ATTRIBUTE_TYPE_INVALID, PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, TokenInfo
from hwsigner.backends.pkcs11.keygen import KeyKind
from hwsigner.backends.pkcs11.piv_card import ManagedCard, delete_certificate, managing
from hwsigner.backends.pkcs11.piv_slots import PIN_POLICIES, TOUCH_POLICIES, PIVSlot, describe, firmware, named_slot
from hwsigner.backends.pkcs11.search import FoundToken
from hwsigner.backends.pkcs11.writing import TRUE
from hwsigner.errors import SigningKeyError, UnsupportedKeyError, UsageError
from hwsigner.key.management import KeyAlgorithm, KeyDescription, KeyRequest

# CKA_YUBICO_TOUCH_POLICY and CKA_YUBICO_PIN_POLICY, a byte each.
_TOUCH_POLICY, _PIN_POLICY = 0xD9554201, 0xD9554202
# From this firmware on, a card says of each slot whether it has a key. Before, it shows only keys made on the card.
_FIRST_WITH_METADATA = (5, 3, 0)
# The first libykcs11 seen to read that, 2.2.0, by its own number.
_FIRST_TO_READ_METADATA = (2, 20)

# By algorithm, the first firmware that is asked for such keys. RSA keys of older chips can be computed from their
# public keys (ROCA, CVE-2017-15361).
_SINCE: dict[KeyAlgorithm, tuple[int, int, int]] = {
    "p256": (4, 0, 0),
    "p384": (4, 0, 0),
    "rsa2048": (4, 3, 5),
    "rsa3072": (5, 7, 0),
    "rsa4096": (5, 7, 0),
}


def generate_key(found: FoundToken, uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
    """Make a key in the slot that a URI names by its `id`. The PIN that is asked for is the card's management key.

    A wrong one was sent once. A slot that is not empty, or can't be shown to be, is a SigningKeyError.
    """
    key_id = _new_slot(uri)
    _check_request(request, found.info)
    kind = KeyKind.of(request.algorithm)
    with managing(found) as card:
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
                public = {Attribute.ID: key_id, **kind.size}
                card.session.generate_key_pair(kind.mechanism, public, _private_template(key_id, request))
            _remove_placeholder(card, key_id)
            card.reopen()
            after = PIVSlot.read(card.session, key_id)
        except (PKCS11Error, SigningKeyError) as error:
            raise _failure(card, before, request, error) from error
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


def _check_request(request: KeyRequest, info: TokenInfo) -> None:
    """Raise a UsageError or UnsupportedKeyError if a card can't make such a key."""
    request.require_only("pin_policy", "touch_policy", "overwrite", kind="keys on a PIV card")
    version, since = firmware(info), _SINCE.get(request.algorithm)
    able = [name for name, first in _SINCE.items() if version >= first]
    hint = f"Use one of {', '.join(able)}" if able else "Use a newer YubiKey"
    if since is None:
        raise UnsupportedKeyError(f"a PIV card has no {request.algorithm} keys", hint)
    if version < since:
        first, present = (".".join(map(str, number)) for number in (since, version))
        problem = f"YubiKeys make {request.algorithm} keys from firmware {first}, and this one has {present}"
        raise UnsupportedKeyError(problem, hint)


def _check_empty(card: ManagedCard, slot: PIVSlot) -> None:
    """Raise a SigningKeyError unless a slot shows nothing, and would show a key that was imported into it."""
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
    """Return the attributes of a new private key. libykcs11 refuses CKA_MODIFIABLE and ignores CKA_SIGN.

    Version 2.2 also refuses CKA_EXTRACTABLE. No command of a card reads a private key out.
    """
    policies = {
        _PIN_POLICY: bytes([PIN_POLICIES.index(request.pin_policy)]),
        _TOUCH_POLICY: bytes([TOUCH_POLICIES.index(request.touch_policy)]),
    }
    return {
        Attribute.ID: key_id,
        Attribute.TOKEN: TRUE,
        Attribute.PRIVATE: TRUE,
        Attribute.SENSITIVE: TRUE,
        # libykcs11 2.2 refuses these two attributes. Without them, the slot's own policies apply.
        **{name: policy for name, policy in policies.items() if any(policy)},
    }


def _failure(
    card: ManagedCard, before: PIVSlot, request: KeyRequest, error: PKCS11Error | SigningKeyError
) -> SigningKeyError:
    """Return what to raise if no key could be made, or what was made could not be read."""
    if not isinstance(error, PKCS11Error):
        failed = error
    elif error.code == ATTRIBUTE_TYPE_INVALID and (request.pin_policy or request.touch_policy):
        module = card.token.module
        version = module.functions.library()["library-version"]
        hint = "Leave the policy out, install a newer libykcs11, or make the key with yubico-piv-tool -a generate"
        return UnsupportedKeyError(f"version {version} of {module.path} sets no PIN policy and no touch policy", hint)
    else:
        failed = card.token.failure("could not make a key", error)
    return type(failed)(f"{failed.message}; {before.name} may have a new key now", failed.hint)


def _remove_placeholder(card: ManagedCard, key_id: bytes) -> None:
    """Delete the certificate that libykcs11 makes up for a new key, with an invalid signature.

    It stays if the card does not attest the key, since older cards show the key by its certificate alone.
    """
    if PIVSlot.read(card.session, key_id).attestation:
        delete_certificate(card, key_id)


def _differences(before: PIVSlot, after: PIVSlot, kind: KeyKind, request: KeyRequest) -> Iterator[str]:
    """Yield how a new key differs from what was asked for, as the card shows it."""
    key, attestation = after.key, after.attestation
    if key is None or key.public_key is None:
        yield "the card shows no key"
        return
    if not kind.matches(key):
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
