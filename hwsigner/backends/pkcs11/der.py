"""The little DER (X.690) that PKCS #11 needs: signatures, points, and the public key of a certificate."""

from __future__ import annotations

from collections.abc import Iterator

_RAW_POINT_LENGTHS = (65, 97, 133)
_TAG_VERSION = 0xA0
_TAG_BIT_STRING = 0x03
_TAG_OCTET_STRING = 0x04


def encode_ecdsa_signature(raw: bytes) -> bytes:
    """Return r and s, each half of the bytes, as the DER SEQUENCE of RFC 3279, 2.2.3."""
    half = len(raw) // 2
    return encode(0x30, encode_integer(raw[:half]) + encode_integer(raw[half:]))


def certificate_public_key(der: bytes) -> bytes | None:
    """Return the SubjectPublicKeyInfo of an X.509 certificate (RFC 5280, 4.1), or None where its DER is broken."""
    try:
        fields = list(_elements(_content(_content(der))))
        # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo; a version may come before them.
        return fields[6 if fields[0][0] == _TAG_VERSION else 5]
    except (IndexError, ValueError):
        return None


def without_padding(der: bytes) -> bytes:
    """Return the first element alone: some cards pad a certificate to the size of its file."""
    try:
        return der[: _header_size(der) + _length(der)]
    except IndexError:
        return der


def raw_point(point: bytes) -> bytes:
    """Return an EC point without the OCTET STRING that PKCS #11 2.40 wants around it.

    Some tokens leave it out, and some have a BIT STRING.
    """
    if len(point) in _RAW_POINT_LENGTHS or len(point) < 2:
        return point
    if point[0] == _TAG_BIT_STRING:
        return _content(point)[1:]
    return _content(point) if point[0] == _TAG_OCTET_STRING else point


def encode(tag: int, content: bytes) -> bytes:
    """Return an element."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def encode_integer(unsigned: bytes) -> bytes:
    """Return an INTEGER, of the bytes of a number that is not negative."""
    number = int.from_bytes(unsigned, "big")
    return encode(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


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
