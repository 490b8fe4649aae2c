"""DER (X.690) of what PKCS #11 has in a raw form: signatures, points, public keys and padded certificates."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hwsigner.backends.pem import CONTEXT, Element, elements, first_element

OID_EC = bytes.fromhex("06072a8648ce3d0201")
_OID_RSA = bytes.fromhex("06092a864886f70d010101")
_RAW_POINT_LENGTHS = (65, 97, 133)
_TAG_INTEGER, _TAG_BIT_STRING, _TAG_OCTET_STRING, _TAG_SEQUENCE = 0x02, 0x03, 0x04, 0x30


def encode_ecdsa_signature(raw: bytes) -> bytes:
    """Return r and s, each half of the bytes, as the DER SEQUENCE of RFC 3279, 2.2.3."""
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))


def certificate_public_key(der: bytes) -> bytes | None:
    """Return the SubjectPublicKeyInfo of an X.509 certificate (RFC 5280, 4.1), or None if it can't be read."""
    from cryptography.x509 import InvalidVersion, load_der_x509_certificate

    try:
        try:
            key: PublicKeyTypes = load_der_x509_certificate(der).public_key()
        except (ValueError, InvalidVersion):
            # Its form may be unusual, and its key be read all the same.
            key = load_der_public_key(encode(0x30, _certificate_fields(der)[5].content))
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, LookupError, UnsupportedAlgorithm):
        return None


class CertificateNames(NamedTuple):
    """What a certificate object holds in addition to the certificate, in DER (PKCS #11 3.1, 4.6.3)."""

    serial_number: bytes
    issuer: bytes
    subject: bytes


def certificate_names(der: bytes) -> CertificateNames:
    """Return the names and the serial number of an X.509 certificate; raise a ValueError if it is not one."""
    serial, _, issuer, _, subject, *_ = _certificate_fields(der)
    return CertificateNames(
        encode(_TAG_INTEGER, serial.content),
        encode(_TAG_SEQUENCE, issuer.content),
        encode(_TAG_SEQUENCE, subject.content),
    )


def common_name(der: bytes) -> bytes:
    """Return the common name of a certificate's subject in UTF-8, or `CA` if it has none or can't be read."""
    from cryptography.x509 import InvalidVersion, NameOID, load_der_x509_certificate

    with suppress(ValueError, InvalidVersion):
        names = load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if names and names[0].value:
            return names[0].value.encode() if isinstance(names[0].value, str) else names[0].value
    return b"CA"


def _certificate_fields(der: bytes) -> list[Element]:
    """Return the elements of a TBSCertificate (RFC 5280, 4.1), from its serial number on."""
    (whole,) = elements(der)
    fields = list(elements(next(elements(whole.content), whole).content))
    return fields[1:] if fields and fields[0].tag_class == CONTEXT else fields


def key_id(public_key: bytes) -> bytes:
    """Return the CKA_ID that NSS and OpenSC give to a key: the SHA-1 of its RSA modulus, EC point or ML-DSA key.

    `public_key` is a DER SubjectPublicKeyInfo.
    """
    (whole,) = elements(public_key)
    algorithm, bits = elements(whole.content)
    key = bits.content[1:]
    if algorithm.content.startswith(_OID_RSA):
        (sequence,) = elements(key)
        key = next(elements(sequence.content)).content.lstrip(b"\0")
    return hashlib.sha1(key, usedforsecurity=False).digest()


def without_padding(der: bytes) -> bytes:
    """Return a certificate without the padding that some cards add to fill its file."""
    if der[:2] == b"\x30\x82" and int.from_bytes(der[2:4], "big") == len(der) - 4:
        return der
    try:
        return first_element(der)
    except ValueError:
        return der


def raw_point(point: bytes) -> bytes:
    """Return an EC point without the OCTET STRING around it that PKCS #11 2.40 requires.

    Some tokens omit it, and some have a BIT STRING instead.
    """
    size = 3 if point[1:2] == b"\x81" else 2
    is_wrapped = len(point) > size and point[size - 1] == len(point) - size
    if len(point) in _RAW_POINT_LENGTHS or not is_wrapped or point[0] not in (_TAG_BIT_STRING, _TAG_OCTET_STRING):
        return point
    return point[size + (point[0] == _TAG_BIT_STRING) :]


def named_curve(parameters: bytes) -> bytes:
    """Return a CKA_EC_PARAMS with the OID of its curve, if it has all numbers of P-256, P-384 or P-521 instead.

    libykcs11 2.2 with OpenSSL 3 shows imported keys so. Other parameters are returned as they are.
    """
    if parameters[:1] != bytes([_TAG_SEQUENCE]):
        return parameters
    try:
        (whole,) = elements(parameters)
        generator = list(elements(whole.content))[3].content  # ECParameters (SEC 1, C.2). It is a point of the curve.
        algorithm = encode(_TAG_SEQUENCE, OID_EC + parameters)
        spki = encode(_TAG_SEQUENCE, algorithm + encode(_TAG_BIT_STRING, b"\0" + generator))
        named = load_der_public_key(spki).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        (whole,) = elements(named)
        (_, oid) = elements(next(elements(whole.content)).content)
    except (ValueError, TypeError, LookupError, UnsupportedAlgorithm):
        return parameters
    return encode(oid.tag, oid.content)


def encode(tag: int, content: bytes) -> bytes:
    """Return an element."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def encode_integer(unsigned: bytes) -> bytes:
    """Return the bytes of an unsigned number as an INTEGER."""
    number = int.from_bytes(unsigned, "big")
    return encode(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
