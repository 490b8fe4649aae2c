"""The public keys that a token shows: of public key objects, of certificates, and of the private keys themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pkcs11 import Attribute, KeyType

from hwsigner.backends._pkcs11_attributes import attributes
from hwsigner.backends._pkcs11_der import encode, encode_integer, raw_point

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
