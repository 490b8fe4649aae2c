"""DER (ITU-T X.690), read by asn1crypto. Importing that takes 12 ms, so it is left to those who need it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

UNIVERSAL, CONTEXT = 0, 2
BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID, UTF8_STRING, SEQUENCE = 1, 2, 3, 4, 6, 12, 16


class Element(NamedTuple):
    """An element: the class and number of its tag, and its content."""

    tag_class: int
    tag: int
    content: bytes


def elements(der: bytes) -> Iterator[Element]:
    """Yield the elements in some bytes, one after the other. BER, whose lengths may be indefinite, is read too.

    Raises:
        ValueError: the bytes are not elements, or the last one is cut short.
    """
    from asn1crypto import parser

    while der:
        tag_class, _, tag, header, content, trailer = parser.parse(der)
        yield Element(tag_class, tag, content)
        der = der[len(header) + len(content) + len(trailer) :]


def first_element(der: bytes) -> bytes:
    """Return the bytes of the first element, without what follows it.

    Raises:
        ValueError: it is cut short.
    """
    from asn1crypto import parser

    return der[: parser.peek(der)]
