"""BER-TLV data objects (ISO/IEC 7816-4, 5.2.2) as PIV uses them: definite lengths of up to two bytes."""

from __future__ import annotations


def encode(tag: int, value: bytes) -> bytes:
    """Return a data object. The tag takes as many bytes as it needs."""
    length = len(value)
    if length < 0x80:
        prefix = bytes([length])
    elif length < 0x100:
        prefix = bytes([0x81, length])
    else:
        prefix = b"\x82" + length.to_bytes(2)
    return tag.to_bytes((tag.bit_length() + 7) // 8) + prefix + value


def decode(data: bytes) -> dict[int, bytes]:
    """Return the values of consecutive data objects with one-byte tags, by tag.

    Raises:
        ValueError: the data ends within an object.
    """
    values = {}
    while data:
        tag, data = data[0], data[1:]
        length, data = _take_length(data)
        if length > len(data):
            raise ValueError("a data object is cut off")
        values[tag], data = data[:length], data[length:]
    return values


def _take_length(data: bytes) -> tuple[int, bytes]:
    if not data:
        raise ValueError("a data object has no length")
    if data[0] < 0x80:
        return data[0], data[1:]
    size = data[0] & 0x7F
    if size not in (1, 2) or len(data) <= size:
        raise ValueError("a data object has an invalid length")
    return int.from_bytes(data[1 : 1 + size]), data[1 + size :]
