"""Which private key on a token a URI means, and which public key belongs to which private key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, PKCS11Session
from hwsigner.backends.pkcs11.objects import CertificateObject, KeyObject, Objects, find_objects, read_keys

Found = TypeVar("Found", KeyObject, CertificateObject)


def find_private_keys(session: PKCS11Session, uri: KeyURI, wanted: bytes | None = None) -> list[KeyObject]:
    """Return the private keys that a URI names; if some of them can sign, only those.

    A URI may name a certificate or a public key of the token: the private key has the same CKA_ID, else the same
    public key. `wanted` is the certificate's DER SubjectPublicKeyInfo, if it is known. It chooses among several.
    """
    is_named = bool({"object", "id"} & uri.path.keys())
    if wanted is None and not is_named:
        named = read_keys(session, ObjectClass.PRIVATE_KEY, {})
        return [key for key in named if key.can_sign] or named
    found = find_objects(session, uri)
    named = fitting = found.privates
    if wanted is not None and uri.path.get("type") != b"private" and not _is_settled(named, found, wanted):
        fitting = with_public_key(session, named, {wanted}, found)
    if is_named and not fitting:
        named = _keys_of_others(session, found, wanted) or named
    elif len(fitting) == 1:  # Its public key may have been found.
        named = [fitting[0] if key.handle == fitting[0].handle else key for key in named]
    usable = [key for key in named if key.can_sign] or named
    if len(usable) > 1 and wanted is not None:
        return with_public_key(session, usable, {wanted}, found) or usable
    return usable


def _is_settled(named: Sequence[KeyObject], found: Objects, wanted: bytes) -> bool:
    """Return whether the only key that is named is the one to take, whatever else has its CKA_ID.

    So it is if nothing else has its name, or a certificate with the wanted public key has its CKA_ID and label; but not
    if its own public key is shown there, and is another.
    """
    if len(named) != 1 or found.has_all(_name(named[0])):
        return False
    names = named[0].id, named[0].label
    own = {one.public_key for one in (named[0], *found.publics) if (one.id, one.label) == names}
    is_certified = any((one.id, one.label) == names and one.public_key == wanted for one in found.certificates)
    return own <= {None, wanted} and (is_certified or not found.visible)


def _keys_of_others(session: PKCS11Session, found: Objects, wanted: bytes | None) -> list[KeyObject]:
    """Return the private keys that belong to the certificates and public keys that were found."""
    others = found.visible
    shown: set[bytes | None] = {one.public_key for one in others} - {None}
    ids = sorted({one.id for one in others} - {b""})
    keys = [key for key_id in ids for key in read_keys(session, ObjectClass.PRIVATE_KEY, {Attribute.ID: key_id})]
    if wanted in shown:  # A CKA_ID that leads to another key than the certificate's is not followed.
        shown = {wanted}
        keys = with_public_key(session, keys, shown)
    if keys or not shown:
        return keys
    return with_public_key(session, read_keys(session, ObjectClass.PRIVATE_KEY, {}), shown)


def with_public_key(
    session: PKCS11Session, keys: Sequence[KeyObject], wanted: Collection[bytes | None], found: Objects | None = None
) -> list[KeyObject]:
    """Return one private key for each of these public keys; if there is none, the keys whose public key is hidden.

    Several private keys with one public key are copies of one key. `found` is as for `public_keys_of`.
    """
    shown = list(zip(keys, public_keys_of(session, keys, found), strict=True))
    by_public = {public: key._replace(public_key=public) for key, public in reversed(shown) if public in wanted}
    return list(by_public.values()) or [key for key, public in shown if public is None]


def public_keys_of(
    session: PKCS11Session, keys: Sequence[KeyObject], found: Objects | None = None
) -> list[bytes | None]:
    """Return the public half of each private key as DER SubjectPublicKeyInfo, or None if the token does not show it.

    It is in the private key object itself; else in the public key object of the same CKA_ID (of the same label, if
    there is no CKA_ID); else in the certificate of the same CKA_ID, unless other keys or certificates share that: some
    tokens give it to an attestation certificate as well.

    The token is searched only if the objects that were found with the keys do not decide: for one key by its name; for
    several, all objects are read once.
    """
    bare = [key for key in keys if not key.public_key and (key.id or key.label)]
    shown = {key.handle: alike for key in bare if found and (alike := _public_keys_alike(key, found))}
    rest = [key for key in bare if key.handle not in shown]
    if rest:
        if not (found and all(found.has_all(_name(key)) for key in rest)):
            found = Objects(session, dict([_name(rest[0])]) if len(rest) == 1 else {})
        shown |= _public_keys_among(found, rest)
    single = {handle: publics.pop() for handle, publics in shown.items() if len(publics) == 1}
    return [key.public_key or single.get(key.handle) for key in keys]


def _public_keys_alike(key: KeyObject, found: Objects) -> set[bytes]:
    """Return the public keys with a private key's CKA_ID and label, if no other private key has both.

    Whatever else has the CKA_ID, these are its own, as `_public_keys_beside` finds.
    """
    twins = [one for one in found.privates if (one.key_type, one.id, one.label) == (key.key_type, key.id, key.label)]
    if len(twins) != 1 or not key.id:
        return set()
    alike = [one for one in found.publics if (one.key_type, one.id, one.label) == (key.key_type, key.id, key.label)]
    return {one.public_key for one in alike if one.public_key}


def _public_keys_among(found: Objects, keys: Sequence[KeyObject]) -> dict[int, set[bytes]]:
    """Return the public keys of private keys, by their handles, if all objects with their names were found."""
    publics, privates = _by_name(found.publics), _by_name(found.privates)
    shown = {key.handle: _public_keys_beside(key, publics, privates) for key in keys}
    orphans = [key for key in keys if key.id and not shown[key.handle]]
    certificates = _by_name(found.certificates if orphans else [])
    for key in orphans:
        if len(privates[_name(key)]) == 1:
            shown[key.handle] = {one.public_key for one in certificates[_name(key)] if one.public_key}
    return shown


def _by_name(found: Iterable[Found]) -> defaultdict[tuple[int, bytes], list[Found]]:
    """Return objects by their CKA_ID, and by their label."""
    by_name: defaultdict[tuple[int, bytes], list[Found]] = defaultdict(list)
    for one in found:
        by_name[Attribute.ID, one.id].append(one)
        by_name[Attribute.LABEL, one.label].append(one)
    return by_name


def _name(key: KeyObject) -> tuple[int, bytes]:
    """Return the attribute by which a private key's public key is found, and its value."""
    return (Attribute.ID, key.id) if key.id else (Attribute.LABEL, key.label)


def _public_keys_beside(
    key: KeyObject,
    publics: Mapping[tuple[int, bytes], list[KeyObject]],
    privates: Mapping[tuple[int, bytes], list[KeyObject]],
) -> set[bytes]:
    found = [one for one in publics[_name(key)] if one.key_type == key.key_type]
    alike = [one for one in found if one.label == key.label]
    rivals = [one for one in privates[_name(key)] if one.key_type == key.key_type]
    if len(rivals) > len(found):  # Some public key is gone: one that is left may be another private key's.
        found = alike if [one.label for one in rivals].count(key.label) == 1 else []
    elif len(found) > 1:  # A CKA_ID given twice: the label may tell the keys apart.
        found = alike or found
    return {one.public_key for one in found if one.public_key}


def visible_keys(session: PKCS11Session, uri: KeyURI) -> set[bytes]:
    """Return the DER SubjectPublicKeyInfo of the certificates and public keys that a URI names."""
    return {one.public_key for one in find_objects(session, uri).visible if one.public_key}


def has_visible_match(session: PKCS11Session, uri: KeyURI, wanted: bytes | None) -> bool:
    """Return whether a certificate or key shows that the token has the key, without a login."""
    found = find_objects(session, uri)
    shown = {one.public_key for one in found.visible if one.public_key}
    if wanted is not None and shown:
        return wanted in shown
    return bool(found.visible or found.privates)
