"""Keys and certificates in the slots of a PIV card behind libykcs11: describing and installing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import NoReturn

from hwsigner._pins import PinSource
from hwsigner._system.environment import is_usable, state_folders
from hwsigner._system.files import edit_file
from hwsigner._uri import KeyURI
from hwsigner.backends.pem import Block
from hwsigner.backends.pkcs11.der import certificate_public_key
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, TokenInfo, from_number
from hwsigner.backends.pkcs11.module import token_uri
from hwsigner.backends.pkcs11.objects import Objects, count_names, object_uri
from hwsigner.backends.pkcs11.piv_card import ManagedCard, delete_certificate, managing
from hwsigner.backends.pkcs11.piv_keygen import generate_key
from hwsigner.backends.pkcs11.piv_slots import SLOTS, PIVSlot, describe, find_slot, firmware
from hwsigner.backends.pkcs11.search import FoundToken, using
from hwsigner.backends.pkcs11.writing import TRUE
from hwsigner.errors import HwsignerError, KeyMismatchError, SigningKeyError
from hwsigner.key import FoundCertificate
from hwsigner.key.management import InstalledCertificate, KeyDescription

__all__ = ["describe_key", "generate_key", "install_certificate", "is_piv", "refuse_deletion"]

_FIRST_WITH_DELETION = (5, 7, 0)


def is_piv(info: TokenInfo) -> bool:
    """Whether a token is a PIV card behind libykcs11. Behind OpenSC's module it is a token like others."""
    return info.label.startswith("YubiKey PIV #") and info.manufacturer.startswith("Yubico")


def describe_key(found: FoundToken, uri: KeyURI) -> KeyDescription:
    """Return what the card shows of a key without a PIN."""
    with using(found) as token:
        return describe(token, uri, find_slot(token.current_session(), uri, token.name))


def install_certificate(
    found: FoundToken, uri: KeyURI, pins: PinSource, chain: Sequence[FoundCertificate]
) -> InstalledCertificate:
    """Write a leaf into its key's slot, and the certificates above it into a file: a slot holds one certificate.

    The file is in the state folder and named after its content, so that no other chain is overwritten. If a certificate
    could not be written, the error says what is in the slot.
    """
    leaf = chain[0].der
    with managing(found) as card:
        before = find_slot(card.session, uri, card.token.name)
        place = f"{before.name} of {card.token.name}"
        if certificate_public_key(leaf) != before.public_key:
            raise KeyMismatchError(f"the certificate is not that of the key in {place}", "Name the key's own slot")
        notes = card.log_in(uri, pins)
        _check_unchanged(card, before)
        intermediates = _keep_intermediates(chain[1:])
        try:
            card.session.create(_certificate_template(before.id, leaf))
            card.reopen()
            after = PIVSlot.read(card.session, before.id).certificate
            problem = "" if after == leaf else "the card shows another one than was written"
        except (PKCS11Error, SigningKeyError) as error:
            problem = str(error)
        if problem:
            outcome = _restore(card, uri, pins, before)
            raise SigningKeyError(f"the certificate was not written into {place}: {problem}", outcome)
        return InstalledCertificate(_certificate_uri(card, uri, before.id, leaf), intermediates, notes)


def refuse_deletion(found: FoundToken, uri: KeyURI) -> NoReturn:
    """Refuse to delete a key: asked to, libykcs11 deletes the slot's certificate, keeps the key and reports success."""
    with using(found) as token:
        slot = find_slot(token.current_session(), uri, token.name)
    problem = f"the key in {slot.name} of {token.name} was not deleted: libykcs11 reports success and keeps it"
    hint = f"Delete it with yubico-piv-tool -a delete-key -a delete-certificate -s {SLOTS[slot.id]}"
    if firmware(found.info) < _FIRST_WITH_DELETION:
        problem += ", and YubiKeys before firmware 5.7 can't delete keys"
        hint = "Replace it with hwsigner keygen --overwrite, or reset the card's PIV application, with all its keys"
    raise SigningKeyError(problem, hint)


def _check_unchanged(card: ManagedCard, before: PIVSlot) -> None:
    """Raise a SigningKeyError if a slot is not what it was before the user was asked."""
    now = PIVSlot.read(card.session, before.id)
    if (now.public_key, now.certificate) != (before.public_key, before.certificate):
        problem = f"{before.name} of {card.token.name} was changed meanwhile, so nothing was done"
        raise SigningKeyError(problem, "Look at it with hwsigner show, then retry")


def _certificate_template(key_id: bytes, der: bytes) -> dict[int, bytes]:
    return {
        Attribute.CLASS: from_number(ObjectClass.CERTIFICATE),
        Attribute.CERTIFICATE_TYPE: from_number(0),  # CKC_X_509
        Attribute.TOKEN: TRUE,
        Attribute.ID: key_id,
        Attribute.VALUE: der,
    }


def _restore(card: ManagedCard, uri: KeyURI, pins: PinSource, before: PIVSlot) -> str:
    """Write a slot's former certificate back, or delete a new one if there was none. Return how that went."""
    old = before.certificate
    former = "It has no certificate, as before" if old is None else "The former one is in it"
    try:
        card.reopen()
        if PIVSlot.read(card.session, before.id).certificate == old:
            return former
        card.log_in(uri, pins)
        if old is not None:
            card.session.create(_certificate_template(before.id, old))
        else:
            delete_certificate(card, before.id)
        card.reopen()
        if PIVSlot.read(card.session, before.id).certificate == old:
            return former
        problem = "the card shows another one"
    except (PKCS11Error, SigningKeyError) as error:
        problem = str(error)
    return f"Which certificate it has now is unknown ({problem}): check it with hwsigner show, and install one again"


def _certificate_uri(card: ManagedCard, uri: KeyURI, key_id: bytes, der: bytes) -> str:
    """Return the URI of a slot's certificate, with its label: the attestation certificate has the same CKA_ID."""
    found = Objects(card.session, {Attribute.ID: key_id}).certificates
    one = next(one for one in found if one.der == der)
    return object_uri(one, token_uri(card.token.info, uri), uri, count_names(found))


def _keep_intermediates(chain: Sequence[FoundCertificate]) -> str:
    """Write certificates into a file of their own and return its path, or an empty string if there are none."""
    if not chain:
        return ""
    pem = b"".join(Block("CERTIFICATE", one.der).pem for one in chain)
    folder = next(filter(is_usable, state_folders("chains")), None)
    if folder is None:
        raise SigningKeyError(
            "no folder can keep the intermediates, which do not fit into a slot", "Set XDG_STATE_HOME"
        )
    path = os.path.join(folder, f"{hashlib.sha256(pem).hexdigest()[:16]}.pem")
    try:
        edit_file(path, lambda _: pem)
    except HwsignerError as error:
        raise SigningKeyError(error.message, error.hint) from error
    return path
