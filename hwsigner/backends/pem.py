"""What a key or certificate file holds, as labelled blocks: PEM (RFC 7468) as written, DER labelled by its shape."""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

from hwsigner.errors import HwsignerError

MAX_FILE_BYTES = 1 << 20
PKCS12 = "PKCS12"
PKCS7 = "PKCS7"
BER_SEQUENCE = b"\x30\x80"  # With an end that is marked, in place of a length.

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MARKER = re.compile(rb"-----(BEGIN|END) ([^\n]{0,64}?)-----")
_INTEGER, _BIT_STRING, _OCTET_STRING, _SEQUENCE = 0x02, 0x03, 0x04, 0x30

# The label of a DER file by the tags at the start of its outer SEQUENCE; the first that fits decides.
_SHAPES = (
    ((_INTEGER, _SEQUENCE, _OCTET_STRING), "PRIVATE KEY"),
    ((_INTEGER, _SEQUENCE), PKCS12),
    ((_INTEGER, _OCTET_STRING), "EC PRIVATE KEY"),
    ((_INTEGER, _INTEGER, _INTEGER), "RSA PRIVATE KEY"),
    ((_INTEGER, _INTEGER), "RSA PUBLIC KEY"),
    ((_SEQUENCE, _OCTET_STRING), "ENCRYPTED PRIVATE KEY"),
    ((_SEQUENCE, _SEQUENCE, _BIT_STRING), "CERTIFICATE"),
    ((_SEQUENCE, _BIT_STRING), "PUBLIC KEY"),
)
# The label of one that begins with an OID, by that: 2.23.133.10.1 and one more (TSS2), 1.2.840.113549.1.7 and one more.
_OIDS = (
    (bytes.fromhex("06066781050a01"), "TSS2 PRIVATE KEY"),
    (bytes.fromhex("06092a864886f70d0107"), PKCS7),
)

_PLAIN = frozenset({"CERTIFICATE", "PUBLIC KEY", "CERTIFICATE REQUEST"})
_NAMES = {PKCS7: "PKCS #7", PKCS12: "PKCS #12"}
_HINTS: dict[type[OSError], str] = {
    FileNotFoundError: "Check the path",
    IsADirectoryError: "Name a file in it",
    PermissionError: "Run as a user who may read it",
}


def _hint(path: str, reason: OSError) -> str:
    if path.startswith(("~", "$")):
        return "Write the whole path: nobody here puts a folder in the place of ~ or $HOME"
    return _HINTS.get(type(reason), "Check the path")


class Block(NamedTuple):
    """One block of a file.

    Attributes:
        label: its PEM label, such as `CERTIFICATE`, or the one that a DER file would bear.
        data: its bytes, decoded from base64. DER, unless `headers` say that they are encrypted.
        headers: the lines of RFC 1421 before the base64, as legacy-encrypted keys have them.
    """

    label: str
    data: bytes
    headers: bytes = b""

    def __repr__(self) -> str:
        return f"Block({self.label!r})"  # The data may be a private key.

    @property
    def encrypted(self) -> bool:
        """Whether it is a private key that a passphrase protects. PKCS #12 does not say it here."""
        return self.label.startswith("ENCRYPTED ") or b"ENCRYPTED" in self.headers

    @property
    def pem(self) -> bytes:
        """The block as PEM."""
        lines = [binascii.b2a_base64(self.data[i : i + 48]) for i in range(0, len(self.data), 48)]
        headers = self.headers + b"\n\n" if self.headers else b""
        label = self.label.encode("latin-1")
        return b"-----BEGIN %b-----\n%b%b-----END %b-----\n" % (label, headers, b"".join(lines), label)


class Contents(NamedTuple):
    """The blocks of a file, at least one, and the status of the opened file."""

    blocks: tuple[Block, ...]
    status: os.stat_result

    def __str__(self) -> str:
        return " and ".join(dict.fromkeys(_in_words(block.label) for block in self.blocks))


def read_contents(path: str, error: type[HwsignerError]) -> Contents:
    """Read a file, once and from its start to its end, so that a pipe will do.

    Raises:
        HwsignerError: as the class `error`: the file can't be read, is too long, or is neither PEM nor DER.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as reason:
        raise error(f"can't read {path}: {reason.strerror}", _hint(path, reason)) from reason
    if len(data) > MAX_FILE_BYTES:
        raise error(f"{path} holds more than {MAX_FILE_BYTES} bytes", "No key or certificate file is that long")
    data = data.removeprefix(_BYTE_ORDER_MARK)
    if not data.strip():
        raise error(f"{path} is empty", "Name the file with the key or certificate, or write it anew")
    try:
        return Contents(read_blocks(data), status)
    except ValueError as reason:
        raise error(f"{path} is no key or certificate file: {reason}", "PEM, DER and PKCS #12 are read") from reason


def read_blocks(data: bytes) -> tuple[Block, ...]:
    """Return the blocks of PEM, or the one that DER is.

    Raises:
        ValueError: it is neither.
    """
    return tuple(_blocks(data))


def first_element(der: bytes) -> bytes:
    """Return the first DER element alone.

    Raises:
        ValueError: it is cut short, or its length has no end marked (BER).
    """
    _, _, end = _header(der, 0)
    return der[:end]


def _in_words(label: str) -> str:
    if label.endswith("PRIVATE KEY"):
        return "a private key"
    return f"a {label.lower()}" if label in _PLAIN else _NAMES.get(label, label)


def _blocks(data: bytes) -> Iterator[Block]:
    text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    markers = list(_MARKER.finditer(text))
    if not markers:
        yield Block(_label(data), data)
    for begin, end in zip_longest(markers[::2], markers[1::2]):
        label = begin[2].decode("latin-1")
        if end is None or (begin[1], end[1], end[2]) != (b"BEGIN", b"END", begin[2]):
            raise ValueError(f"the {label} block has no matching BEGIN and END lines")
        yield _pem_block(label, text[begin.end() : end.start()])


def _pem_block(label: str, body: bytes) -> Block:
    headers = b""
    if b":" in body:
        headers, _, body = body.strip().partition(b"\n\n")
    try:
        data = binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except binascii.Error as error:
        raise ValueError(f"the {label} block is not base64") from error
    if not data:
        raise ValueError(f"the {label} block is empty")
    return Block(label, data, headers)


def _label(der: bytes) -> str:
    """Return the label of a DER file."""
    if der[:2] == BER_SEQUENCE:
        return _label_by_oid(der[2:]) or PKCS12  # Only these are still written in BER.
    tag, start, _ = _header(der, 0)
    if tag != _SEQUENCE:
        raise ValueError("it is neither PEM nor DER")
    label = _label_by_oid(der[start:])
    if label:
        return label
    tags: list[int] = []
    while start < len(der) and len(tags) < 3:
        tag, _, start = _header(der, start)
        tags.append(tag)
    for shape, label in _SHAPES:
        if tuple(tags[: len(shape)]) == shape:
            return label
    raise ValueError("it is DER of an unknown kind")


def _label_by_oid(content: bytes) -> str:
    return next((label for oid, label in _OIDS if content.startswith(oid)), "")


def _header(der: bytes, offset: int) -> tuple[int, int, int]:
    """Return an element's tag, where its content starts and where it ends."""
    if len(der) < offset + 2:
        raise ValueError("it is neither PEM nor DER, or cut short")
    tag, length, start = der[offset], der[offset + 1], offset + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    if not start <= start + length <= len(der):
        raise ValueError("it is neither PEM nor DER, or cut short")
    return tag, start, start + length
