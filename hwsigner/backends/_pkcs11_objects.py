"""Objects of a token: finding keys and certificates, their public keys, the URIs that name them, and a little DER."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pkcs11 import Attribute, KeyType, ObjectClass, PKCS11Error
from pkcs11.types import Session, Token

from hwsigner.backends._pkcs11_module import serial_text
from hwsigner.errors import UnsupportedKeyError
from hwsigner.key import ECDSA, RSA, RSA_BITS, SUPPORTED_KEYS, Algorithm
from hwsigner.uri import KeyURI

ALGORITHMS: dict[int, Algorithm] = {KeyType.EC: ECDSA, KeyType.RSA: RSA}
# By CKA_EC_PARAMS, the OID of the curve: P-256, P-384, P-521.
ORDER_BYTES = {
    bytes.fromhex("06082a8648ce3d030107"): 32,
    bytes.fromhex("06052b81040022"): 48,
    bytes.fromhex("06052b81040023"): 66,
}
_OID_EC = bytes.fromhex("06072a8648ce3d0201")
_ALGORITHM_RSA = bytes.fromhex("300d06092a864886f70d0101010500")
_RAW_POINT_LENGTHS = (65, 97, 133)
_TAG_VERSION = 0xA0
_KEY_ATTRIBUTES = (Attribute.KEY_TYPE, Attribute.ID, Attribute.LABEL, Attribute.ALWAYS_AUTHENTICATE)


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


def find_private_keys(session: Session, uri: KeyURI) -> list[PrivateKeyObject]:
    """Return the private keys that a URI names, those first that can sign, if any can.

    A key without the URI's label may still be meant: the one whose CKA_ID is that of the certificate with the label.
    """
    objects = search(session, ObjectClass.PRIVATE_KEY, _template(uri))
    if not objects and "object" in uri.path:
        ids = {certificate.id for certificate in find_certificate_objects(session, uri)} - {b""}
        for key_id in sorted(ids):
            objects += search(session, ObjectClass.PRIVATE_KEY, {Attribute.ID: key_id})
    keys = [_private_key(found) for found in objects]
    return [key for key in keys if key.can_sign] or keys


def find_certificate_objects(session: Session, uri: KeyURI) -> list[CertificateObject]:
    """Return the certificates that a URI names by `object` and `id`, but for those that the token holds as a URL."""
    found = []
    for certificate in search(session, ObjectClass.CERTIFICATE, _template(uri)):
        values = attributes(certificate, Attribute.VALUE, Attribute.ID, Attribute.LABEL)
        if der := values.get(Attribute.VALUE):
            found.append(CertificateObject(der, values.get(Attribute.ID, b""), values.get(Attribute.LABEL, b"")))
    return found


def has_visible_match(session: Session, uri: KeyURI, public_key: bytes | None) -> bool:
    """Return whether a certificate or public key shows that the token holds the key, without a login."""
    public_keys = search(session, ObjectClass.PUBLIC_KEY, _template(uri))
    certificates = find_certificate_objects(session, uri)
    shown = _public_keys(public_keys) | _certified_keys(certificates)
    if public_key is not None and shown:
        return public_key in shown
    return bool(public_keys or certificates)


def supported(key: PrivateKeyObject, uri: KeyURI) -> PrivateKeyObject:
    """Return the key, if it may sign and the service takes its kind.

    Raises:
        UnsupportedKeyError: it may not, or it is of another kind, size or curve.
    """
    if key.key_type not in ALGORITHMS:
        names = {int(kind): kind.name for kind in KeyType}
        kind = names.get(key.key_type, f"type {key.key_type:#x}")
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


def public_key_of(session: Session, key: PrivateKeyObject) -> bytes | None:
    """Return a private key's public half as DER SubjectPublicKeyInfo, or None where the token does not show it.

    Without a public key object, the certificate of the same CKA_ID has it, if no other key and certificate share the
    CKA_ID: some tokens give it to an attestation certificate as well.
    """
    own = _spki({Attribute.KEY_TYPE: key.key_type, **attributes(key.object, *_PUBLIC_ATTRIBUTES[1:])})
    if own is not None or not (key.id or key.label):
        return own
    template: dict[Attribute, Any] = {Attribute.ID: key.id} if key.id else {Attribute.LABEL: key.label}
    template[Attribute.KEY_TYPE] = key.key_type
    found = search(session, ObjectClass.PUBLIC_KEY, template)
    if len(found) > 1:  # A CKA_ID given twice: the label may tell the keys apart.
        found = search(session, ObjectClass.PUBLIC_KEY, {**template, Attribute.LABEL: key.label}) or found
    spkis = _public_keys(found)
    if not found and key.id and len(search(session, ObjectClass.PRIVATE_KEY, {Attribute.ID: key.id})) == 1:
        spkis = _certified_keys(find_certificate_objects(session, KeyURI("pkcs11", {"id": key.id})))
    return spkis.pop() if len(spkis) == 1 else None


def search(session: Session, kind: ObjectClass, template: Mapping[Attribute, Any]) -> list[Any]:
    """Return the objects of a class that have all the attributes."""
    return list(session.get_objects({Attribute.CLASS: kind, **template}))


def attributes(found: Any, *names: Attribute) -> dict[Attribute, Any]:
    """Return those of an object's attributes that the token shows."""
    try:
        return dict(found.get_attributes(names))
    except PKCS11Error:  # Some modules fail as a whole over one attribute that they don't have.
        values = {}
        for name in names:
            with suppress(PKCS11Error):
                values[name] = found[name]
        return values


def object_uri(token: Token, found: PrivateKeyObject | CertificateObject, uri: KeyURI) -> str:
    """Return the URI that names an object alone, with the module of the URI that it was found by."""
    path = {"token": token.label.encode(), "serial": serial_text(token).encode(), "id": found.id, "object": found.label}
    kind = b"cert" if isinstance(found, CertificateObject) else b"private"
    query = {name: value for name, value in uri.query.items() if name.startswith("module-")}
    return str(KeyURI("pkcs11", {**{name: value for name, value in path.items() if value}, "type": kind}, query))


def encode_ecdsa_signature(raw: bytes) -> bytes:
    """Return r and s, each half of the bytes, as the DER SEQUENCE of RFC 3279, 2.2.3."""
    half = len(raw) // 2
    return _der(0x30, _der_integer(raw[:half]) + _der_integer(raw[half:]))


def certificate_public_key(der: bytes) -> bytes | None:
    """Return the SubjectPublicKeyInfo of an X.509 certificate (RFC 5280, 4.1), or None where its DER is broken."""
    try:
        fields = list(_elements(_content(_content(der))))
        # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo; a version may come before them.
        return fields[6 if fields[0][0] == _TAG_VERSION else 5]
    except (IndexError, ValueError):
        return None


def _template(uri: KeyURI) -> dict[Attribute, bytes]:
    names = {"object": Attribute.LABEL, "id": Attribute.ID}
    return {attribute: uri.path[name] for name, attribute in names.items() if name in uri.path}


def _private_key(found: Any) -> PrivateKeyObject:
    values = attributes(found, *_KEY_ATTRIBUTES)
    return PrivateKeyObject(
        found,
        values.get(Attribute.KEY_TYPE, -1),
        values.get(Attribute.ID, b""),
        values.get(Attribute.LABEL, b""),
        values.get(Attribute.ALWAYS_AUTHENTICATE, False),
    )


_PUBLIC_ATTRIBUTES = (
    Attribute.KEY_TYPE,
    Attribute.MODULUS,
    Attribute.PUBLIC_EXPONENT,
    Attribute.EC_PARAMS,
    Attribute.EC_POINT,
)


def _public_keys(objects: list[Any]) -> set[bytes]:
    spkis = {_spki(attributes(found, *_PUBLIC_ATTRIBUTES)) for found in objects}
    return {spki for spki in spkis if spki}


def _certified_keys(certificates: list[CertificateObject]) -> set[bytes]:
    spkis = {certificate_public_key(certificate.der) for certificate in certificates}
    return {spki for spki in spkis if spki}


def _spki(values: Mapping[Attribute, Any]) -> bytes | None:
    modulus, exponent = values.get(Attribute.MODULUS), values.get(Attribute.PUBLIC_EXPONENT)
    parameters, point = values.get(Attribute.EC_PARAMS), values.get(Attribute.EC_POINT)
    if values.get(Attribute.KEY_TYPE) == KeyType.RSA and modulus and exponent:
        algorithm, key = _ALGORITHM_RSA, _der(0x30, _der_integer(modulus) + _der_integer(exponent))
    elif values.get(Attribute.KEY_TYPE) == KeyType.EC and parameters and point:
        algorithm, key = _der(0x30, _OID_EC + parameters), _raw_point(point)
    else:
        return None
    return _der(0x30, algorithm + _der(0x03, b"\0" + key))


def _raw_point(point: bytes) -> bytes:
    """Return an EC point without the OCTET STRING that PKCS #11 2.40 wants around it and some tokens leave out."""
    if len(point) in _RAW_POINT_LENGTHS:
        return point
    return point[_header_size(point) :]


def _elements(der: bytes) -> Iterator[bytes]:
    """Split the content of a SEQUENCE into its elements."""
    while der:
        size = _header_size(der) + _length(der)
        if size > len(der):
            raise ValueError("truncated DER")
        yield der[:size]
        der = der[size:]


def _content(der: bytes) -> bytes:
    """Return the content of the first element."""
    return der[_header_size(der) :][: _length(der)]


def _length(der: bytes) -> int:
    return der[1] if der[1] < 0x80 else int.from_bytes(der[2 : _header_size(der)])


def _header_size(der: bytes) -> int:
    return 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def _der_integer(unsigned: bytes) -> bytes:
    number = int.from_bytes(unsigned, "big")
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
