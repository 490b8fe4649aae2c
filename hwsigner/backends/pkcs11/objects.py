"""Objects of a token: the keys and certificates that a URI names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple, TypeVar

from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.der import (
    OID_EC,
    certificate_public_key,
    encode,
    encode_integer,
    named_curve,
    raw_point,
    without_padding,
)
from hwsigner.backends.pkcs11.functions import Attribute, KeyType, ObjectClass, PKCS11Session, to_number
from hwsigner.errors import UnsupportedKeyError
from hwsigner.key import ECDSA, MLDSA, RSA, RSA_BITS, SUPPORTED_KEYS, Algorithm, is_rsa_exponent

ALGORITHMS: dict[int, Algorithm] = {KeyType.EC: ECDSA, KeyType.RSA: RSA, KeyType.ML_DSA: MLDSA}
# By CKA_EC_PARAMS, the OID of the curve: P-256, P-384, P-521.
ORDER_BYTES = {
    bytes.fromhex("06082a8648ce3d030107"): 32,
    bytes.fromhex("06052b81040022"): 48,
    bytes.fromhex("06052b81040023"): 66,
}
_ALGORITHM_RSA = bytes.fromhex("300d06092a864886f70d0101010500")
# id-ml-dsa-44, -65 and -87 (RFC 9881, 2) by CKA_PARAMETER_SET (PKCS #11 3.2, 6.67) and the bytes of the public key.
_OID_MLDSA = {
    (1, 1312): bytes.fromhex("0609608648016503040311"),
    (2, 1952): bytes.fromhex("0609608648016503040312"),
    (3, 2592): bytes.fromhex("0609608648016503040313"),
}
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
    """A private or public key on a token, as far as the token shows it."""

    handle: int  # Its number in the session that found it.
    key_type: int  # CKA_KEY_TYPE, or -1.
    id: bytes
    label: bytes
    can_sign: bool = False
    always_authenticate: bool = False
    curve: bytes = b""  # CKA_EC_PARAMS.
    bits: int = 0  # The size of an RSA modulus, or 0.
    parameter_set: int = 0  # CKA_PARAMETER_SET of a public ML-DSA key, or 0.
    public_key: bytes | None = None  # SubjectPublicKeyInfo in DER, if it has it: private RSA keys mostly do, EC rarely.


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


class Objects:
    """All objects that have some names, found by one search. Those of a class are read when they are first needed.

    The names are a CKA_ID and CKA_LABEL; an empty one means that they have none.
    """

    def __init__(self, session: PKCS11Session, names: _Template) -> None:
        self._session = session
        self._names = names
        self._handles: defaultdict[int, list[int]] = defaultdict(list)
        for handle in session.find(None, _filled(names)):
            self._handles[session.class_of(handle)].append(handle)

    def __bool__(self) -> bool:
        return bool(self._handles)

    @cached_property
    def privates(self) -> list[KeyObject]:
        """The private keys, as far as they can be read."""
        return self._keys(ObjectClass.PRIVATE_KEY)

    @cached_property
    def publics(self) -> list[KeyObject]:
        """The public keys, as far as they can be read."""
        return self._keys(ObjectClass.PUBLIC_KEY)

    @cached_property
    def certificates(self) -> list[CertificateObject]:
        """The X.509 certificates, but for those that the token has as a URL."""
        return _without(self._names, _certificates_at(self._session, self._handles[ObjectClass.CERTIFICATE]))

    @property
    def visible(self) -> list[AnyObject]:
        """The public keys and certificates, which tokens mostly show without a login."""
        return [*self.publics, *self.certificates]

    def has_all(self, name: tuple[int, bytes]) -> bool:
        """Whether everything on the token that has a name is among them."""
        return self._names.items() <= {name}

    def _keys(self, kind: int) -> list[KeyObject]:
        return _without(self._names, _keys_at(self._session, kind, self._handles[kind]))


def find_objects(session: PKCS11Session, uri: KeyURI) -> Objects:
    """Return the objects that a URI names by `object` and `id`."""
    found = Objects(session, _names_of(uri))
    half_encoded = None if found else _half_encoded(uri)
    return Objects(session, half_encoded) if half_encoded else found


def supported(key: KeyObject, uri: KeyURI) -> KeyObject:
    """Return the key, if it may sign and the service accepts its kind. Otherwise that is an UnsupportedKeyError."""
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


def _names_of(uri: KeyURI) -> _Template:
    return {_NAMES[name]: uri.path[name] for name in _NAMES.keys() & uri.path.keys()}


def _half_encoded(uri: KeyURI) -> _Template | None:
    """Return the names that pkcs11-tool may mean with a URI's `id`; None if it wrote no part of it as plain text."""
    match = _HALF_ENCODED.fullmatch(uri.path.get("id", b""))
    return match and {**_names_of(uri), Attribute.ID: match[1] + bytes.fromhex(match[2].decode())}


def _filled(names: _Template) -> _Template:
    """Return the names to search for. A template with an empty value would miss the objects without that attribute."""
    return {name: value for name, value in names.items() if value}


def _without(names: _Template, found: list[Found]) -> list[Found]:
    """Return the objects that lack the names that are empty."""
    if names.get(Attribute.ID) == b"":
        found = [one for one in found if not one.id]
    return [one for one in found if not one.label] if names.get(Attribute.LABEL) == b"" else found


def read_keys(session: PKCS11Session, kind: int, template: _Template) -> list[KeyObject]:
    """Return the keys of a class that have these attributes, but not those that can't be read."""
    return _keys_at(session, kind, session.find(kind, template))


def _keys_at(session: PKCS11Session, kind: int, handles: Iterable[int]) -> list[KeyObject]:
    return [key for handle in handles if (key := read_key(session, kind, handle)) is not None]


def read_key(session: PKCS11Session, kind: int, handle: int) -> KeyObject | None:
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
        parameter_set=to_number(values.get(Attribute.PARAMETER_SET), default=0),
        public_key=_spki(values),
    )


def _certificates_at(session: PKCS11Session, handles: Iterable[int]) -> list[CertificateObject]:
    found = []
    for handle in handles:
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
    value = values.get(Attribute.VALUE, b"")
    oid = _OID_MLDSA.get((to_number(values.get(Attribute.PARAMETER_SET)), len(value)))
    if kind == KeyType.RSA and modulus and exponent and is_rsa_exponent(int.from_bytes(exponent)):
        algorithm, key = _ALGORITHM_RSA, encode(0x30, encode_integer(modulus) + encode_integer(exponent))
    elif kind == KeyType.EC and parameters and point and raw_point(point)[:1] in _POINT_FORMS:
        algorithm, key = encode(0x30, OID_EC + parameters), raw_point(point)
    elif kind == KeyType.ML_DSA and oid:
        algorithm, key = encode(0x30, oid), value
    else:
        return None
    return encode(0x30, algorithm + encode(0x03, b"\0" + key))
