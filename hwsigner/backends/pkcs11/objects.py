"""Objects of a token: the keys and certificates that a URI names, and which public key belongs to which private key."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

from hwsigner.backends.pkcs11.der import (
    OID_EC,
    certificate_public_key,
    encode,
    encode_integer,
    named_curve,
    raw_point,
    without_padding,
)
from hwsigner.backends.pkcs11.functions import Attribute, KeyType, ObjectClass, Session, to_number
from hwsigner.errors import UnsupportedKeyError
from hwsigner.key import ECDSA, MLDSA, RSA, RSA_BITS, SUPPORTED_KEYS, Algorithm, is_rsa_exponent
from hwsigner.uri import KeyURI

ALGORITHMS: dict[int, Algorithm] = {KeyType.EC: ECDSA, KeyType.RSA: RSA, KeyType.ML_DSA: MLDSA}
# By CKA_EC_PARAMS, the OID of the curve: P-256, P-384, P-521.
ORDER_BYTES = {
    bytes.fromhex("06082a8648ce3d030107"): 32,
    bytes.fromhex("06052b81040022"): 48,
    bytes.fromhex("06052b81040023"): 66,
}
_ALGORITHM_RSA = bytes.fromhex("300d06092a864886f70d0101010500")
# id-ml-dsa-44, -65 and -87 (RFC 9881, 2) by CKA_PARAMETER_SET (PKCS #11 3.2, 6.67).
_OID_MLDSA = {1 + n: bytes.fromhex(f"06096086480165030403{oid}") for n, oid in enumerate(("11", "12", "13"))}
_POINT_FORMS = (b"\x02", b"\x03", b"\x04")  # The first byte of an encoded point (SEC 1, 2.3.3).
_NAMES = {"id": Attribute.ID, "object": Attribute.LABEL}
# OpenSC's pkcs11-tool writes the id 01 02 ff as %0102ff.
_HALF_ENCODED = re.compile(rb"(.)((?:[0-9a-f]{2})+)", re.DOTALL)
_PRIVATE = (
    *(Attribute.KEY_TYPE, Attribute.ID, Attribute.LABEL, Attribute.SIGN, Attribute.MODULUS, Attribute.PUBLIC_EXPONENT),
    *(Attribute.EC_PARAMS, Attribute.EC_POINT, Attribute.ALWAYS_AUTHENTICATE),
)
# Of a private key, CKA_VALUE is the secret.
_PUBLIC = (*_PRIVATE, Attribute.PARAMETER_SET, Attribute.VALUE)


class KeyObject(NamedTuple):
    """A private or public key on a token, as far as the token shows it.

    Attributes:
        handle: its number in the session that found it.
        key_type: the CKA_KEY_TYPE, or -1.
        id, label: the CKA_ID and CKA_LABEL.
        can_sign: CKA_SIGN.
        always_authenticate: CKA_ALWAYS_AUTHENTICATE.
        curve: the CKA_EC_PARAMS.
        bits: the size of an RSA modulus, or 0.
        public_key: the DER SubjectPublicKeyInfo, if the object itself has it: private RSA keys mostly do, EC keys
            rarely.
    """

    handle: int
    key_type: int
    id: bytes
    label: bytes
    can_sign: bool = False
    always_authenticate: bool = False
    curve: bytes = b""
    bits: int = 0
    public_key: bytes | None = None


class CertificateObject(NamedTuple):
    """An X.509 certificate on a token. Its handle is its number in the session that found it."""

    der: bytes
    id: bytes
    label: bytes
    handle: int

    @property
    def public_key(self) -> bytes | None:
        """The DER SubjectPublicKeyInfo, or None if the certificate can't be read."""
        return certificate_public_key(self.der)


AnyObject = KeyObject | CertificateObject
Names = Counter[frozenset[tuple[str, bytes]]]
Found = TypeVar("Found", KeyObject, CertificateObject)
_Template = Mapping[int, bytes]


def find_private_keys(session: Session, uri: KeyURI, wanted: bytes | None = None) -> list[KeyObject]:
    """Return the private keys that a URI names; if some of them can sign, only those.

    A URI may name a certificate or a public key of the token: the private key has the same CKA_ID, else the same
    public key. `wanted` is the certificate's DER SubjectPublicKeyInfo, if it is known.
    """
    named = find_keys(session, ObjectClass.PRIVATE_KEY, uri)
    is_sure = wanted is None or uri.path.get("type") == b"private"
    if {"object", "id"} & uri.path.keys() and not (named and (is_sure or with_public_key(session, named, {wanted}))):
        named = _keys_of_others(session, uri, wanted) or named
    return [key for key in named if key.can_sign] or named


def _keys_of_others(session: Session, uri: KeyURI, wanted: bytes | None) -> list[KeyObject]:
    """Return the private keys that belong to the certificates and public keys that a URI names."""
    others = _visible(session, uri)
    shown: set[bytes | None] = {one.public_key for one in others} - {None}
    ids = sorted({one.id for one in others} - {b""})
    keys = [key for key_id in ids for key in _read_keys(session, ObjectClass.PRIVATE_KEY, {Attribute.ID: key_id})]
    if wanted in shown:  # A CKA_ID that leads to another key than the certificate's is not followed.
        shown = {wanted}
        keys = with_public_key(session, keys, shown)
    if keys or not shown:
        return keys
    return with_public_key(session, _read_keys(session, ObjectClass.PRIVATE_KEY, {}), shown)


def with_public_key(session: Session, keys: Sequence[KeyObject], wanted: Collection[bytes | None]) -> list[KeyObject]:
    """Return one private key for each of these public keys; if there is none, the keys whose public key is hidden.

    Several private keys with one public key are copies of one key.
    """
    shown = list(zip(keys, public_keys_of(session, keys), strict=True))
    by_public = {public: key for key, public in reversed(shown) if public in wanted}
    return list(by_public.values()) or [key for key, public in shown if public is None]


def public_keys_of(session: Session, keys: Sequence[KeyObject]) -> list[bytes | None]:
    """Return the public half of each private key as DER SubjectPublicKeyInfo, or None if the token does not show it.

    It is in the private key object itself; else in the public key object of the same CKA_ID (of the same label, if
    there is no CKA_ID); else in the certificate of the same CKA_ID, unless other keys or certificates share that: some
    tokens give it to an attestation certificate as well.

    The token is searched for one key by its name; for several, all objects are read once.
    """
    bare = [key for key in keys if not key.public_key and (key.id or key.label)]
    publics = _by_name(bare, partial(_read_keys, session, ObjectClass.PUBLIC_KEY))
    privates = _by_name(bare, partial(_read_keys, session, ObjectClass.PRIVATE_KEY))
    shown = {key.handle: _public_keys_beside(key, publics, privates) for key in bare}
    orphans = [key for key in bare if key.id and not shown[key.handle]]
    certificates = _by_name(orphans, partial(_read_certificates, session))
    for key in orphans:
        if len(privates[_name(key)]) == 1:
            shown[key.handle] = {one.public_key for one in certificates[_name(key)] if one.public_key}
    single = {handle: found.pop() for handle, found in shown.items() if len(found) == 1}
    return [key.public_key or single.get(key.handle) for key in keys]


def _by_name(
    keys: Sequence[KeyObject], read: Callable[[_Template], list[Found]]
) -> defaultdict[tuple[int, bytes], list[Found]]:
    """Return objects by their names: for one key those that have its name, for several all."""
    found: list[Found] = []
    if keys:
        found = read(dict([_name(keys[0])]) if len(keys) == 1 else {})
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


def visible_keys(session: Session, uri: KeyURI) -> set[bytes]:
    """Return the DER SubjectPublicKeyInfo of the certificates and public keys that a URI names."""
    return {one.public_key for one in _visible(session, uri) if one.public_key}


def has_visible_match(session: Session, uri: KeyURI, wanted: bytes | None) -> bool:
    """Return whether a certificate or key shows that the token has the key, without a login."""
    found = _visible(session, uri)
    shown = {one.public_key for one in found if one.public_key}
    if wanted is not None and shown:
        return wanted in shown
    return bool(found or find_keys(session, ObjectClass.PRIVATE_KEY, uri))


def _visible(session: Session, uri: KeyURI) -> list[AnyObject]:
    return [*find_keys(session, ObjectClass.PUBLIC_KEY, uri), *find_certificates(session, uri)]


def supported(key: KeyObject, uri: KeyURI) -> KeyObject:
    """Return the key, if it may sign and the service accepts its kind.

    Raises:
        UnsupportedKeyError: it may not, or it has another kind, size or curve.
    """
    kind = ""
    if key.key_type not in ALGORITHMS:
        kind = key_kind(key.key_type)
    elif key.bits and key.bits not in RSA_BITS:
        kind = f"RSA of {key.bits} bits"
    elif key.key_type == KeyType.EC and key.curve and key.curve not in ORDER_BYTES:
        kind = "EC on another curve"
    if kind:
        raise UnsupportedKeyError(f"key {uri.name} is of an unsupported kind: {kind}", f"Use {SUPPORTED_KEYS}")
    if not key.can_sign:
        raise UnsupportedKeyError(f"key {uri.name} may not sign: its CKA_SIGN is not set", "Use a key made for signing")
    return key


def key_kind(key_type: int) -> str:
    """Return a key's type (CKA_KEY_TYPE) as the specification names it; a type that python-pkcs11 lacks as a number."""
    with suppress(ImportError, ValueError):  # Imported here only, because it takes 40 ms.
        import pkcs11

        return pkcs11.KeyType(key_type).name
    return f"type {key_type:#x}" if key_type >= 0 else "unknown"


def count_names(found: Iterable[AnyObject]) -> Names:
    """Count objects by their id, by their label and by both, for `object_uri`."""
    counts: Names = Counter()
    for one in found:
        kind, key_id, label = ("type", _uri_type(one)), ("id", one.id), ("object", one.label)
        counts.update(map(frozenset, ({kind}, {kind, key_id}, {kind, label}, {kind, key_id, label})))
    return counts


def object_uri(found: AnyObject, token: KeyURI, uri: KeyURI, names: Names) -> str:
    """Return the URI of an object on a token, which was found by another URI.

    An empty id or label is written if it tells the object from others that were found, whose names are given.
    """
    own, kind = {"id": found.id, "object": found.label}, {"type": _uri_type(found)}
    shown = {name: value for name, value in own.items() if value or uri.path.get(name) == b""}
    if names[frozenset((shown | kind).items())] > 1:
        shown = own
    return str(KeyURI("pkcs11", {**token.path, **shown, **kind}, token.query))


def _uri_type(found: AnyObject) -> bytes:
    return b"cert" if isinstance(found, CertificateObject) else b"private"


def find_keys(session: Session, kind: int, uri: KeyURI) -> list[KeyObject]:
    """Return the keys of a class that a URI names by `object` and `id`."""
    return _named(uri, partial(_read_keys, session, kind))


def find_certificates(session: Session, uri: KeyURI) -> list[CertificateObject]:
    """Return the certificates that a URI names by `object` and `id`, but not those that the token has as a URL."""
    return _named(uri, partial(_read_certificates, session))


def _named(uri: KeyURI, read: Callable[[_Template], list[Found]]) -> list[Found]:
    """Return the objects that a URI names. An empty name means that the object has none."""
    names = {_NAMES[name]: uri.path[name] for name in _NAMES.keys() & uri.path.keys()}
    found = _with_names(names, read)
    half_encoded = _HALF_ENCODED.fullmatch(names.get(Attribute.ID, b""))
    if not found and half_encoded:
        key_id = half_encoded[1] + bytes.fromhex(half_encoded[2].decode())
        found = _with_names({**names, Attribute.ID: key_id}, read)
    return found


def _with_names(names: _Template, read: Callable[[_Template], list[Found]]) -> list[Found]:
    # A template with an empty value would miss the objects without that attribute.
    found = read({name: value for name, value in names.items() if value})
    if names.get(Attribute.ID) == b"":
        found = [one for one in found if not one.id]
    return [one for one in found if not one.label] if names.get(Attribute.LABEL) == b"" else found


def _read_keys(session: Session, kind: int, template: _Template) -> list[KeyObject]:
    """Return the keys of a class that have these attributes, but not those that can't be read."""
    found = (read_key(session, kind, handle) for handle in session.find(kind, template))
    return [key for key in found if key is not None]


def read_key(session: Session, kind: int, handle: int) -> KeyObject | None:
    """Return a key of a class by its handle, or None if it can't be read."""
    values = session.read(handle, _PRIVATE if kind == ObjectClass.PRIVATE_KEY else _PUBLIC)
    if not values:
        return None
    if Attribute.EC_PARAMS in values:
        values = {**values, Attribute.EC_PARAMS: named_curve(values[Attribute.EC_PARAMS])}
    return KeyObject(
        handle,
        to_number(values.get(Attribute.KEY_TYPE)),
        values.get(Attribute.ID, b""),
        values.get(Attribute.LABEL, b""),
        can_sign=any(values.get(Attribute.SIGN, b"")),
        always_authenticate=any(values.get(Attribute.ALWAYS_AUTHENTICATE, b"")),
        curve=values.get(Attribute.EC_PARAMS, b""),
        bits=int.from_bytes(values.get(Attribute.MODULUS, b"")).bit_length(),
        public_key=_spki(values),
    )


def _read_certificates(session: Session, template: _Template) -> list[CertificateObject]:
    found = []
    for handle in session.find(ObjectClass.CERTIFICATE, template):
        values = session.read(handle, (Attribute.VALUE, Attribute.ID, Attribute.LABEL, Attribute.CERTIFICATE_TYPE))
        is_x509 = to_number(values.get(Attribute.CERTIFICATE_TYPE), default=0) == 0
        if is_x509 and values.get(Attribute.VALUE):
            der = without_padding(values[Attribute.VALUE])
            key_id, label = values.get(Attribute.ID, b""), values.get(Attribute.LABEL, b"")
            found.append(CertificateObject(der, key_id, label, handle))
    return found


def _spki(values: Mapping[int, bytes]) -> bytes | None:
    """Return the DER SubjectPublicKeyInfo (RFC 5280, 4.1) of a key's attributes, or None if they are not whole."""
    kind = to_number(values.get(Attribute.KEY_TYPE))
    modulus, exponent = values.get(Attribute.MODULUS), values.get(Attribute.PUBLIC_EXPONENT)
    parameters, point = values.get(Attribute.EC_PARAMS), values.get(Attribute.EC_POINT)
    oid, value = _OID_MLDSA.get(to_number(values.get(Attribute.PARAMETER_SET))), values.get(Attribute.VALUE)
    if kind == KeyType.RSA and modulus and exponent and is_rsa_exponent(int.from_bytes(exponent)):
        algorithm, key = _ALGORITHM_RSA, encode(0x30, encode_integer(modulus) + encode_integer(exponent))
    elif kind == KeyType.EC and parameters and point and raw_point(point)[:1] in _POINT_FORMS:
        algorithm, key = encode(0x30, OID_EC + parameters), raw_point(point)
    elif kind == KeyType.ML_DSA and oid and value:
        algorithm, key = encode(0x30, oid), value
    else:
        return None
    return encode(0x30, algorithm + encode(0x03, b"\0" + key))
