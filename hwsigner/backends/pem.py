"""Key and certificate files: PEM (RFC 7468) as labelled blocks, and DER (ITU-T X.690), labelled by its structure.

asn1crypto reads the DER. Importing it takes 12 ms, so this is left to the functions that need it.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice, zip_longest
from typing import Any, Final, NamedTuple

from hwsigner.errors import HwsignerError

MAX_FILE_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PKCS12 = "PKCS12"
PKCS7 = "PKCS7"
UNIVERSAL, CONTEXT = 0, 2
BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID, UTF8_STRING, SEQUENCE = 1, 2, 3, 4, 6, 12, 16

_MARKER = re.compile(rb"-----(BEGIN|END) ([^\n]{0,64}?)-----")

# The label of a DER file by the first tags in its outer SEQUENCE. The first match decides.
_SHAPES = (
    ((INTEGER, SEQUENCE, OCTET_STRING), "PRIVATE KEY"),
    ((INTEGER, SEQUENCE), PKCS12),
    ((INTEGER, OCTET_STRING), "EC PRIVATE KEY"),
    ((INTEGER, INTEGER, INTEGER), "RSA PRIVATE KEY"),
    ((INTEGER, INTEGER), "RSA PUBLIC KEY"),
    ((SEQUENCE, OCTET_STRING), "ENCRYPTED PRIVATE KEY"),
    ((SEQUENCE, SEQUENCE, BIT_STRING), "CERTIFICATE"),
    ((SEQUENCE, BIT_STRING), "PUBLIC KEY"),
)
# The label of one that starts with an OID: 2.23.133.10.1 and one more (TSS2), 1.2.840.113549.1.7 and one more.
_OIDS = ((bytes.fromhex("6781050a01"), "TSS2 PRIVATE KEY"), (bytes.fromhex("2a864886f70d0107"), PKCS7))

_PLAIN = frozenset({"CERTIFICATE", "PUBLIC KEY", "CERTIFICATE REQUEST"})
_KEY_BAGS = {"key_bag": "PRIVATE KEY", "pkcs8_shrouded_key_bag": "ENCRYPTED PRIVATE KEY"}
_NAMES = {PKCS7: "PKCS #7", PKCS12: "PKCS #12"}
_HINTS: dict[type[OSError], str] = {
    FileNotFoundError: "Check the path",
    IsADirectoryError: "Name a file in it",
}


class Block:
    """One block of a file."""

    def __init__(self, label: str, data: bytes, headers: bytes = b"", before: bytes = b"") -> None:
        self.label: Final = label  # A PEM label, such as `CERTIFICATE`, or the one that a DER file would have.
        self.data: Final = data  # Decoded from base64. DER, unless `headers` say that they are encrypted.
        self.headers: Final = headers  # The lines of RFC 1421 before the base64 of a legacy-encrypted key.
        self.before: Final = before  # The text between the block before, or the start of the file, and this one.

    def __repr__(self) -> str:
        return f"Block({self.label!r})"  # The data may be a private key.

    @property
    def encrypted(self) -> bool:
        """Whether it is a private key behind a passphrase. For PKCS #12 this is unknown here, so it is false."""
        return self.label.startswith("ENCRYPTED ") or b"ENCRYPTED" in self.headers

    @property
    def pem(self) -> bytes:
        """The block as PEM."""
        lines = [binascii.b2a_base64(self.data[i : i + 48]) for i in range(0, len(self.data), 48)]
        headers = self.headers + b"\n\n" if self.headers else b""
        label = self.label.encode("latin-1")
        return b"-----BEGIN %b-----\n%b%b-----END %b-----\n" % (label, headers, b"".join(lines), label)


class Contents:
    """The blocks of a file, at least one, and the status of the opened file, or None for one that has no path."""

    def __init__(self, blocks: tuple[Block, ...], status: os.stat_result | None) -> None:
        self.blocks: Final = blocks
        self.status: Final = status

    def __str__(self) -> str:
        return " and ".join(dict.fromkeys(_in_words(block.label) for block in self.blocks))


def read_contents(path: str, error: type[HwsignerError]) -> Contents:
    """Read a file, once from start to end, so that it may be a pipe.

    More than 1 MiB, and what is neither PEM nor DER, are errors of the given class.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as reason:
        raise error(f"can't read {path}: {reason.strerror}", _hint(path, reason)) from reason
    if len(data) > MAX_FILE_BYTES:
        raise error(f"{path} has more than {MAX_FILE_BYTES} bytes", "Name a key or certificate file")
    data = data.removeprefix(BYTE_ORDER_MARK)
    if not data.strip():
        raise error(f"{path} is empty", "Name the file with the key or certificate, or write it again")
    try:
        return Contents(read_blocks(data), status)
    except ValueError as reason:
        problem = f"{path} is not a key or certificate file: {reason}"
        raise error(problem, "Name a file in PEM, DER or PKCS #12") from reason


def read_blocks(data: bytes) -> tuple[Block, ...]:
    """Return the blocks of PEM data, or one block for DER data. Anything else is a ValueError."""
    return tuple(_blocks(data))


class Element(NamedTuple):
    """An element of DER: the class and number of its tag, and its content."""

    tag_class: int
    tag: int
    content: bytes


def elements(der: bytes) -> Iterator[Element]:
    """Yield the elements in some bytes, one after the other. BER, whose lengths may be indefinite, is read too.

    If the bytes are not elements, or the last one is cut short, that is a ValueError.
    """
    from asn1crypto import parser

    while der:
        tag_class, _, tag, header, content, trailer = parser.parse(der)
        yield Element(tag_class, tag, content)
        der = der[len(header) + len(content) + len(trailer) :]


def first_element(der: bytes) -> bytes:
    """Return the bytes of the first element, without what follows it. If it is cut short, that is a ValueError."""
    from asn1crypto import parser

    return der[: parser.peek(der)]


def pkcs12_keys(data: bytes) -> list[Block]:
    """Return the private keys in a PKCS #12 file (RFC 7292), each encrypted or not. Nothing is decrypted.

    Keys inside of encrypted contents are not seen; tools encrypt only each key. A damaged file has none here.
    """
    from asn1crypto.pkcs12 import Pfx, SafeContents

    def found(bags: Iterable[Any]) -> Iterator[Block]:
        for bag in bags:
            kind, value = bag["bag_id"].native, bag["bag_value"]
            if kind == "safe_contents":
                yield from found(value)
            elif kind in _KEY_BAGS:
                yield Block(_KEY_BAGS[kind], value.untag().dump())

    with suppress(ValueError, TypeError, KeyError, RecursionError):
        parts = [part for part in Pfx.load(data).authenticated_safe if part["content_type"].native == "data"]
        return [block for part in parts for block in found(SafeContents.load(part["content"].native))]
    return []


def _hint(path: str, reason: OSError) -> str:
    if path.startswith(("~", "$")):
        return "Write the full path: hwsigner does not expand ~ or $HOME"
    if isinstance(reason, FileNotFoundError) and re.fullmatch(r"(0x)?81[0-9a-f]{6}", path, re.IGNORECASE):
        return f"For the key at this handle of the TPM, write handle:0x{path[-8:]}"
    if isinstance(reason, FileNotFoundError) and ":" in path.partition("/")[0]:
        return "Check the path; key URIs start with pkcs11:, tpm2:, handle:, file:, env: or fd:"
    if isinstance(reason, PermissionError):
        from hwsigner._system.users import denied

        return denied(path)
    return _HINTS.get(type(reason), "Check the path")


def _in_words(label: str) -> str:
    if label.endswith("PRIVATE KEY"):
        return "a private key"
    return f"a {label.lower()}" if label in _PLAIN else _NAMES.get(label, label)


def _blocks(data: bytes) -> Iterator[Block]:
    text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    markers = list(_MARKER.finditer(text))
    if not markers:
        yield Block(_label(data), data)
    last = 0
    for begin, end in zip_longest(markers[::2], markers[1::2]):
        label = begin[2].decode("latin-1")
        if end is None or (begin[1], end[1], end[2]) != (b"BEGIN", b"END", begin[2]):
            raise ValueError(f"the {label} block has no matching BEGIN and END lines")
        yield _pem_block(label, text[begin.end() : end.start()], text[last : begin.start()])
        last = end.end()


def _pem_block(label: str, body: bytes, before: bytes) -> Block:
    headers = b""
    if b":" in body:
        headers, _, body = body.strip().partition(b"\n\n")
    try:
        data = binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except binascii.Error as error:
        raise ValueError(f"the {label} block is not base64") from error
    if not data:
        raise ValueError(f"the {label} block is empty")
    return Block(label, data, headers, before)


def _label(der: bytes) -> str:
    """Return the label of a DER file."""
    try:
        outer = next(elements(der), None)
        if outer is None or outer[:2] != (UNIVERSAL, SEQUENCE):
            raise ValueError("it is not a SEQUENCE")
        inner = list(islice(elements(outer.content), 3))
    except ValueError as error:
        raise ValueError("it is neither PEM nor DER, or cut short") from error
    tags = tuple(element.tag if element.tag_class == UNIVERSAL else None for element in inner)
    for shape, label in _SHAPES:
        if tags[: len(shape)] == shape:
            return label
    for oid, label in _OIDS:
        if tags[:1] == (OID,) and inner[0].content.startswith(oid):
            return label
    raise ValueError("it is DER of an unknown kind")
