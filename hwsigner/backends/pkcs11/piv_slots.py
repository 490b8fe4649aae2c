"""The slots of a PIV card, as libykcs11 shows them without a login.

A slot has a key and, in a data object of its own, a certificate. libykcs11 reads all slots when the first session with
the card is opened, and answers from memory until the last one is closed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.der import certificate_public_key, without_padding
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, PKCS11Session, TokenInfo
from hwsigner.backends.pkcs11.module import token_uri
from hwsigner.backends.pkcs11.objects import KeyObject, find_objects, read_keys
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.errors import AmbiguousKeyError, KeyNotFoundError, UsageError
from hwsigner.key.management import KeyDescription

# The key slots (NIST SP 800-73-4, part 1, 5.1, in hexadecimal) by CKA_ID.
SLOTS = {bytes([1 + n]): f"{slot:02x}" for n, slot in enumerate((0x9A, 0x9C, 0x9D, 0x9E, *range(0x82, 0x96)))}
# By their numbers, in attestation certificates and in libykcs11's attributes. 0 is the slot's default.
PIN_POLICIES, TOUCH_POLICIES = ("", "never", "once", "always"), ("", "never", "always", "cached")
_DATA = 0  # CKO_DATA
# Extensions of attestation certificates: the firmware's version; the PIN policy and the touch policy.
_FIRMWARE, _POLICIES = "1.3.6.1.4.1.41482.3.3", "1.3.6.1.4.1.41482.3.8"
_PIN_GUARDS = {
    "never": "Signatures need no PIN",
    "once": "Signatures need a login with the card's PIN",
    "always": "Each signature needs the card's PIN",
}
_TOUCH_GUARDS = {
    "never": "Signatures need no touch",
    "always": "Each signature needs a touch",
    "cached": "Signatures need a touch, which counts for 15 seconds",
}


class Attestation(NamedTuple):
    """What the card's attestation certificate says of a key. It is read, not verified."""

    public_key: bytes | None  # DER SubjectPublicKeyInfo.
    firmware: str  # The version of the card's firmware, such as `5.4.3`, or empty.
    pin_policy: str  # `never`, `once` or `always`, or empty.
    touch_policy: str  # `never`, `always` or `cached`, or empty.

    @classmethod
    def read(cls, der: bytes) -> Attestation:
        """Read a certificate. What it does not have in the right form is missing."""
        firmware, policies = _extension(der, _FIRMWARE), _extension(der, _POLICIES).ljust(2, b"\0")
        return cls(
            certificate_public_key(der),
            ".".join(map(str, firmware)),
            dict(enumerate(PIN_POLICIES)).get(policies[0], ""),
            dict(enumerate(TOUCH_POLICIES)).get(policies[1], ""),
        )


class PIVSlot(NamedTuple):
    """A slot, as libykcs11 shows it without a login."""

    id: bytes  # The CKA_ID of all that is in it.
    key: KeyObject | None  # The public key object; None if the slot shows no key.
    is_local: bool  # Whether the card says that it made the key itself.
    attestation: Attestation | None  # The card's own statement on a key that it made itself.
    certificate: bytes | None  # DER.
    has_data: bool  # Whether the certificate's data object is there, even if it can't be read as a certificate.

    @classmethod
    def read(cls, session: PKCS11Session, key_id: bytes) -> PIVSlot:
        """Read the slot with this CKA_ID."""
        key = next(iter(read_keys(session, ObjectClass.PUBLIC_KEY, {Attribute.ID: key_id})), None)
        local = session.read(key.handle, (Attribute.LOCAL,)).get(Attribute.LOCAL, b"") if key else b""
        by_place: dict[bool, bytes] = {}
        for handle in session.find(ObjectClass.CERTIFICATE, {Attribute.ID: key_id}):
            values = session.read(handle, (Attribute.VALUE, Attribute.TOKEN))
            # The attestation certificate is made each time it is read: it is not an object of the token.
            by_place[any(values.get(Attribute.TOKEN, b"\1"))] = without_padding(values.get(Attribute.VALUE, b""))
        return cls(
            key_id,
            key,
            is_local=any(local),
            attestation=Attestation.read(by_place[False]) if False in by_place else None,
            certificate=by_place.get(True),
            has_data=bool(session.find(_DATA, {Attribute.ID: key_id})),
        )

    @property
    def name(self) -> str:
        """The slot as messages name it."""
        return f"slot {SLOTS[self.id]}"

    @property
    def content(self) -> str:
        """What is in the slot, in words; an empty string if it shows nothing."""
        has_key = self.key is not None or self.attestation is not None
        return " and ".join([*["a key"] * has_key, *["a certificate"] * self.has_certificate])

    @property
    def has_certificate(self) -> bool:
        """Whether the slot has a certificate, even one that can't be read."""
        return self.certificate is not None or self.has_data

    @property
    def public_key(self) -> bytes | None:
        """The key's DER SubjectPublicKeyInfo, or None."""
        return self.key.public_key if self.key else None


def named_slot(uri: KeyURI) -> bytes | None:
    """Return the CKA_ID of the slot that a URI names, or None if it has no `id`; raise a UsageError for another id.

    libykcs11 would take its first byte, and overwrite that slot.
    """
    named = uri.path.get("id")
    if named is not None and named not in SLOTS:
        hint = "Write id=%01 for slot 9a, %02 for 9c, %03 for 9d, %04 for 9e, and %05 to %18 for 82 to 95"
        raise UsageError(f"{uri.name} names no slot of a PIV card", hint)
    return named


def find_slot(session: PKCS11Session, uri: KeyURI, name: str) -> PIVSlot:
    """Return the slot that a URI names by `id` or by the label of a certificate or public key, or the only one in use.

    It raises a KeyNotFoundError or AmbiguousKeyError for no slot or several. `name` is the token in messages.
    """
    named = named_slot(uri)
    ids = {named} if named else _ids(session, uri)
    if len(ids) > 1:
        listed = ", ".join(f"id=%{key_id.hex()} (slot {SLOTS[key_id]})" for key_id in sorted(ids))
        raise AmbiguousKeyError(f"{uri.name} names {len(ids)} keys on {name}", f"Use one of {listed}")
    for key_id in ids:
        slot = PIVSlot.read(session, key_id)
        if slot.key is not None:
            return slot
    listed = ", ".join(SLOTS[key_id] for key_id in sorted(_ids(session, KeyURI("pkcs11", {}))))
    hint = f"Slots with a key: {listed}" if listed else "Make one with hwsigner keygen"
    raise KeyNotFoundError(f"no key is named by {uri.name} on {name}", hint)


def firmware(info: TokenInfo) -> tuple[int, int, int]:
    """Return the version of a card's firmware. libykcs11 gives 5.4.3 as 5.43."""
    major, minor = info.firmware
    return major, *divmod(minor, 10)


def _ids(session: PKCS11Session, uri: KeyURI) -> set[bytes]:
    """Return the CKA_IDs of the slots whose public key or certificate a URI names."""
    return {one.id for one in find_objects(session, uri).visible} & SLOTS.keys()


def describe(token: OpenToken, uri: KeyURI, slot: PIVSlot, notes: tuple[str, ...] = ()) -> KeyDescription:
    """Return what is known of the key in a slot, with these notes of the caller."""
    place = token_uri(token.info, uri)
    found = slot.attestation
    pin_policy, touch_policy = (found.pin_policy, found.touch_policy) if found else ("", "")
    if found:
        origin = "The card made it, says its attestation certificate, and no command reads it out"
    elif slot.is_local:
        origin = "The card made it, it says, and no command reads it out"
    else:
        origin = "No command reads it out, but it may have been imported, and there may be copies of it"
    guards = _PIN_GUARDS.get(pin_policy, ""), _TOUCH_GUARDS.get(touch_policy, ""), origin
    if not (pin_policy and touch_policy):
        notes = ("Whether it needs the PIN or a touch is not shown: only an attestation of the card says it", *notes)
    return KeyDescription(
        uri=str(KeyURI("pkcs11", {**place.path, "id": slot.id, "type": b"private"}, place.query)),
        place=f"{slot.name} of {token.name}",
        public_key=slot.public_key,
        guards=tuple(filter(None, guards)),
        properties={
            "token": token.info.label,
            "serial": token.info.serial,
            "firmware": (found and found.firmware) or ".".join(map(str, firmware(token.info))),
            "module": token.module.path,
            "id": slot.id.hex(),
            "pivSlot": SLOTS[slot.id],
            "pinPolicy": pin_policy or None,
            "touchPolicy": touch_policy or None,
            "local": True if found or slot.is_local else None,
            "extractable": False,
        },
        notes=notes,
    )


def _extension(der: bytes, oid: str) -> bytes:
    """Return the value of a certificate's extension that cryptography does not know; no bytes if there is none."""
    from cryptography import x509

    with suppress(ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.InvalidVersion):
        found = x509.load_der_x509_certificate(der).extensions.get_extension_for_oid(x509.ObjectIdentifier(oid))
        return found.value.public_bytes()
    return b""
