"""Objects of a token: the private keys and certificates that a URI names."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pkcs11 import Attribute, CertificateType, KeyType, ObjectClass, PKCS11Error
from pkcs11._pkcs11 import SearchIter  # type: ignore[attr-defined]
from pkcs11.types import Session

from hwsigner.backends.pkcs11.der import certificate_public_key, encode, encode_integer, raw_point, without_padding
from hwsigner.errors import UnsupportedKeyError
from hwsigner.key import ECDSA, MLDSA, RSA, RSA_BITS, SUPPORTED_KEYS, Algorithm
from hwsigner.uri import KeyURI

# What python-pkcs11 raises for an attribute: the module's answer, or a value that is not of the attribute's type.
_UNREADABLE = (PKCS11Error, ValueError, IndexError, struct.error)
# OpenSC's pkcs11-tool writes the id 01 02 ff as %0102ff.
_HALF_ENCODED = re.compile(rb"(.)((?:[0-9a-f]{2})+)", re.DOTALL)
_NAMES = {"object": Attribute.LABEL, "id": Attribute.ID}


def search(session: Session, kind: ObjectClass, template: Mapping[Attribute, Any]) -> list[Any]:
    """Return the objects of a class that have all the attributes, less those that can't be read.

    Raises:
        PKCS11Error: the token can't be searched.
    """
    wanted = {Attribute.CLASS: kind, **template}
    try:
        return list(session.get_objects(wanted))
    except _UNREADABLE:
        # python-pkcs11 reads the objects as they are found, and ends the search at the first that it can't read.
        return _search_one_by_one(session, wanted)


def search_named(session: Session, kind: ObjectClass, uri: KeyURI) -> list[Any]:
    """Return the objects of a class that a URI names by `object` and `id`; an empty one means that there is none."""
    found = _search_exactly(session, kind, uri)
    half_encoded = _HALF_ENCODED.fullmatch(uri.path.get("id", b""))
    if not found and half_encoded:
        key_id = half_encoded[1] + bytes.fromhex(half_encoded[2].decode())
        found = _search_exactly(session, kind, replace(uri, path={**uri.path, "id": key_id}))
    return found


def attributes(found: Any, *names: Attribute) -> dict[Attribute, Any]:
    """Return those of an object's attributes that the token shows."""
    try:
        return dict(found.get_attributes(names))
    except _UNREADABLE:  # Some modules fail as a whole over one attribute that they don't have.
        values = {}
        for name in names:
            with suppress(*_UNREADABLE):
                values[name] = found[name]
        return values


def _search_exactly(session: Session, kind: ObjectClass, uri: KeyURI) -> list[Any]:
    template = {attribute: uri.path[name] for name, attribute in _NAMES.items() if uri.path.get(name)}
    found = search(session, kind, template)
    empty = [attribute for name, attribute in _NAMES.items() if uri.path.get(name) == b""]
    # A template with an empty value would miss the objects without that attribute.
    return [one for one in found if not any(attributes(one, *empty).values())] if empty else found


def _search_one_by_one(session: Session, wanted: Mapping[Attribute, Any]) -> list[Any]:
    found: list[Any] = []
    with SearchIter(session, wanted, 1) as batches:
        for batch in batches:
            with suppress(*_UNREADABLE):
                found += batch
    return found


_OID_EC = bytes.fromhex("06072a8648ce3d0201")
_ALGORITHM_RSA = bytes.fromhex("300d06092a864886f70d0101010500")
# id-ml-dsa-44, -65 and -87 (RFC 9881, 2) by CKA_PARAMETER_SET (PKCS #11 3.2, 6.67).
_OID_MLDSA = {number: bytes.fromhex(f"06096086480165030403{oid}") for number, oid in ((1, "11"), (2, "12"), (3, "13"))}
_ATTRIBUTES = (
    Attribute.KEY_TYPE,
    Attribute.MODULUS,
    Attribute.PUBLIC_EXPONENT,
    Attribute.EC_PARAMS,
    Attribute.EC_POINT,
    Attribute.PARAMETER_SET,
    Attribute.VALUE,
)
# Of an encoded point (SEC 1, 2.3.3).
_POINT_FORMS = (b"\x02", b"\x03", b"\x04")
# Of a private key, CKA_VALUE is the secret, and CKA_EC_POINT and what belongs to RSA may be shown.
_OF_PRIVATE_KEYS = _ATTRIBUTES[1:5]


def public_key(found: Any) -> bytes | None:
    """Return the DER SubjectPublicKeyInfo of a public key object, or None where it is not whole or of another kind."""
    return _spki(attributes(found, *_ATTRIBUTES))


def public_keys(objects: Iterable[Any]) -> set[bytes]:
    """Return those of public key objects."""
    return {spki for spki in map(public_key, objects) if spki}


def public_key_in(private_key: Any, key_type: int) -> bytes | None:
    """Return the public key that a private key object bears itself: of RSA keys most do, of EC keys few."""
    return _spki({**attributes(private_key, *_OF_PRIVATE_KEYS), Attribute.KEY_TYPE: key_type})


def _spki(values: Mapping[Attribute, Any]) -> bytes | None:
    kind = values.get(Attribute.KEY_TYPE)
    modulus, exponent = values.get(Attribute.MODULUS), values.get(Attribute.PUBLIC_EXPONENT)
    parameters, point = values.get(Attribute.EC_PARAMS), values.get(Attribute.EC_POINT)
    oid, value = _OID_MLDSA.get(values.get(Attribute.PARAMETER_SET, 0)), values.get(Attribute.VALUE)
    if kind == KeyType.RSA and modulus and exponent:
        algorithm, key = _ALGORITHM_RSA, encode(0x30, encode_integer(modulus) + encode_integer(exponent))
    elif kind == KeyType.EC and parameters and point and raw_point(point)[:1] in _POINT_FORMS:
        algorithm, key = encode(0x30, _OID_EC + parameters), raw_point(point)
    elif kind == KeyType.ML_DSA and oid and value:
        algorithm, key = encode(0x30, oid), value
    else:
        return None
    return encode(0x30, algorithm + encode(0x03, b"\0" + key))


ALGORITHMS: dict[int, Algorithm] = {KeyType.EC: ECDSA, KeyType.RSA: RSA, KeyType.ML_DSA: MLDSA}
# By CKA_EC_PARAMS, the OID of the curve: P-256, P-384, P-521.
ORDER_BYTES = {
    bytes.fromhex("06082a8648ce3d030107"): 32,
    bytes.fromhex("06052b81040022"): 48,
    bytes.fromhex("06052b81040023"): 66,
}
_KEY_ATTRIBUTES = (Attribute.KEY_TYPE, Attribute.ID, Attribute.LABEL, Attribute.ALWAYS_AUTHENTICATE)
_CERTIFICATE_ATTRIBUTES = (Attribute.VALUE, Attribute.ID, Attribute.LABEL, Attribute.CERTIFICATE_TYPE)


@dataclass(frozen=True)
class PrivateKeyObject:
    """A private key on a token, as far as the token shows it. `object` is python-pkcs11's."""

    object: Any
    key_type: int
    id: bytes
    label: bytes
    always_authenticate: bool

    @property
    def can_sign(self) -> bool:
        """Whether the token lets the key sign (CKA_SIGN)."""
        return hasattr(self.object, "sign")


@dataclass(frozen=True)
class CertificateObject:
    """An X.509 certificate on a token."""

    der: bytes
    id: bytes
    label: bytes


def find_private_keys(session: Session, uri: KeyURI, wanted: bytes | None = None) -> list[PrivateKeyObject]:
    """Return the private keys that a URI names, those first that can sign, if any can.

    A URI may name a certificate or a public key of the token: the private key has the same CKA_ID, else the same
    public key.

    Args:
        session: a session with the token, logged in to where keys are hidden.
        uri: names keys by `object` and `id`.
        wanted: the certificate's DER SubjectPublicKeyInfo, where it is known.
    """
    named = private_keys(search_named(session, ObjectClass.PRIVATE_KEY, uri))
    is_sure = wanted is None or uri.path.get("type") == b"private"
    if {"object", "id"} & uri.path.keys() and not (named and (is_sure or with_public_key(session, named, {wanted}))):
        named = _keys_of_others(session, uri, wanted) or named
    return [key for key in named if key.can_sign] or named


def _keys_of_others(session: Session, uri: KeyURI, wanted: bytes | None) -> list[PrivateKeyObject]:
    """Return the private keys that belong to the certificates and public keys that a URI names."""
    certificates = find_certificate_objects(session, uri)
    objects = search_named(session, ObjectClass.PUBLIC_KEY, uri)
    shown = certified_keys(certificates) | public_keys(objects)
    ids = {one.id for one in certificates} | {one.id for one in private_keys(objects)}
    found = [
        one for each in sorted(ids - {b""}) for one in search(session, ObjectClass.PRIVATE_KEY, {Attribute.ID: each})
    ]
    keys = private_keys(found)
    if wanted in shown:  # A CKA_ID that leads to another key than the certificate's is not followed.
        shown = {wanted}
        keys = with_public_key(session, keys, shown)
    if keys or not shown:
        return keys
    return with_public_key(session, private_keys(search(session, ObjectClass.PRIVATE_KEY, {})), shown)


def with_public_key(
    session: Session, keys: Iterable[PrivateKeyObject], wanted: Collection[bytes | None]
) -> list[PrivateKeyObject]:
    """Return one private key of each of the public keys; without such, those whose public key the token hides.

    Several private keys with one public key are copies of one key.
    """
    shown = [(key, public_key_of(session, key)) for key in keys]
    by_public = {public: key for key, public in reversed(shown) if public in wanted}
    return list(by_public.values()) or [key for key, public in shown if public is None]


def find_certificate_objects(session: Session, uri: KeyURI) -> list[CertificateObject]:
    """Return the certificates that a URI names by `object` and `id`, but for those that the token holds as a URL."""
    found = []
    for certificate in search_named(session, ObjectClass.CERTIFICATE, uri):
        values = attributes(certificate, *_CERTIFICATE_ATTRIBUTES)
        der, kind = values.get(Attribute.VALUE), values.get(Attribute.CERTIFICATE_TYPE, CertificateType.X_509)
        if der and kind == CertificateType.X_509:
            names = (values.get(name, b"") for name in (Attribute.ID, Attribute.LABEL))
            found.append(CertificateObject(without_padding(der), *names))
    return found


def visible_keys(session: Session, uri: KeyURI) -> set[bytes]:
    """Return the DER SubjectPublicKeyInfo of the certificates and public keys that a URI names."""
    objects = search_named(session, ObjectClass.PUBLIC_KEY, uri)
    return public_keys(objects) | certified_keys(find_certificate_objects(session, uri))


def has_visible_match(session: Session, uri: KeyURI, wanted: bytes | None) -> bool:
    """Return whether a certificate or key shows that the token holds the key, without a login."""
    objects = search_named(session, ObjectClass.PUBLIC_KEY, uri)
    certificates = find_certificate_objects(session, uri)
    shown = public_keys(objects) | certified_keys(certificates)
    if wanted is not None and shown:
        return wanted in shown
    return bool(objects or certificates or search_named(session, ObjectClass.PRIVATE_KEY, uri))


def supported(key: PrivateKeyObject, uri: KeyURI) -> PrivateKeyObject:
    """Return the key, if it may sign and the service takes its kind.

    Raises:
        UnsupportedKeyError: it may not, or it is of another kind, size or curve.
    """
    if key.key_type not in ALGORITHMS:
        kind = key_kind(key.key_type)
        raise UnsupportedKeyError(f"key {uri.name} is of an unsupported kind: {kind}", f"Use {SUPPORTED_KEYS}")
    if not key.can_sign:
        raise UnsupportedKeyError(f"key {uri.name} may not sign: its CKA_SIGN is not set", "Use a key made for signing")
    shown = attributes(key.object, Attribute.EC_PARAMS if key.key_type == KeyType.EC else Attribute.MODULUS)
    modulus, curve = shown.get(Attribute.MODULUS), shown.get(Attribute.EC_PARAMS)
    bits = int.from_bytes(modulus or b"").bit_length()
    if (modulus and bits not in RSA_BITS) or (curve and curve not in ORDER_BYTES):
        kind = f"RSA of {bits} bits" if modulus else "EC on another curve"
        raise UnsupportedKeyError(f"key {uri.name} is of an unsupported kind: {kind}", f"Use {SUPPORTED_KEYS}")
    return key


def key_kind(key_type: int) -> str:
    """Return a key's type (CKA_KEY_TYPE) as the specification names it; that of a vendor as a number."""
    names = {int(kind): kind.name for kind in KeyType}
    return names.get(key_type, f"type {key_type:#x}" if key_type >= 0 else "unknown")


def public_key_of(session: Session, key: PrivateKeyObject) -> bytes | None:
    """Return a private key's public half as DER SubjectPublicKeyInfo, or None where the token does not show it.

    Without a public key object, the certificate of the same CKA_ID has it, if no other key and certificate share the
    CKA_ID: some tokens give it to an attestation certificate as well.
    """
    own = public_key_in(key.object, key.key_type)
    if own is not None or not (key.id or key.label):
        return own
    template: dict[Attribute, Any] = {Attribute.ID: key.id} if key.id else {Attribute.LABEL: key.label}
    template[Attribute.KEY_TYPE] = key.key_type
    found = search(session, ObjectClass.PUBLIC_KEY, template)
    if len(found) > 1:  # A CKA_ID given twice: the label may tell the keys apart.
        found = search(session, ObjectClass.PUBLIC_KEY, {**template, Attribute.LABEL: key.label}) or found
    spkis = public_keys(found)
    if not spkis and key.id and len(search(session, ObjectClass.PRIVATE_KEY, {Attribute.ID: key.id})) == 1:
        spkis = certified_keys(find_certificate_objects(session, KeyURI("pkcs11", {"id": key.id})))
    return spkis.pop() if len(spkis) == 1 else None


def certified_keys(certificates: Iterable[CertificateObject]) -> set[bytes]:
    """Return the DER SubjectPublicKeyInfo of each certificate that can be read."""
    spkis = {certificate_public_key(certificate.der) for certificate in certificates}
    return {spki for spki in spkis if spki}


def private_keys(objects: Iterable[Any]) -> list[PrivateKeyObject]:
    """Return private keys with what is read of them; of public key objects, the keys that they belong to."""
    keys = []
    for found in objects:
        values = attributes(found, *_KEY_ATTRIBUTES)
        key_type, is_careful = values.get(Attribute.KEY_TYPE, -1), values.get(Attribute.ALWAYS_AUTHENTICATE, False)
        key_id, label = values.get(Attribute.ID, b""), values.get(Attribute.LABEL, b"")
        keys.append(PrivateKeyObject(found, key_type, key_id, label, always_authenticate=is_careful))
    return keys
