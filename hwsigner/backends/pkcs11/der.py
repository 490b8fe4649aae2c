"""DER (X.690) of what PKCS #11 has in a raw form: signatures, points, public keys and padded certificates."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hwsigner.backends.pem import CONTEXT, elements, first_element

_RAW_POINT_LENGTHS = (65, 97, 133)
_TAG_BIT_STRING = 0x03
_TAG_OCTET_STRING = 0x04


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
            (whole,) = elements(der)
            body = list(elements(next(elements(whole.content), whole).content))
            key = load_der_public_key(encode(0x30, body[6 if body[0].tag_class == CONTEXT else 5].content))
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, LookupError, UnsupportedAlgorithm):
        return None


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
