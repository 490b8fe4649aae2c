"""The TSS2 PRIVATE KEY: a TPM 2.0 key in a file, encrypted by its parent in the TPM (draft-bottomley-tpm2-keys).

    TPMKey ::= SEQUENCE {
        type        OBJECT IDENTIFIER,
        emptyAuth   [0] EXPLICIT BOOLEAN OPTIONAL,
        policy      [1] EXPLICIT SEQUENCE OF TPMPolicy OPTIONAL,
        secret      [2] EXPLICIT OCTET STRING OPTIONAL,
        authPolicy  [3] EXPLICIT SEQUENCE OF TPMAuthPolicy OPTIONAL,
        description [4] EXPLICIT UTF8String OPTIONAL,
        rsaParent   [5] EXPLICIT BOOLEAN OPTIONAL,
        parent      INTEGER,
        pubkey      OCTET STRING,
        privkey     OCTET STRING }

Writers differ, so more is read than DER allows: TRUE as 0x01, and fields that are not known yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from asn1crypto import parser

from hwsigner.errors import UnsupportedKeyError

_CONTEXT = 2
_BOOLEAN, _INTEGER, _OCTET_STRING, _OID, _SEQUENCE = 1, 2, 4, 6, 16
_EMPTY_AUTH, _POLICY, _AUTH_POLICY, _RSA_PARENT = 0, 1, 3, 5

_TYPE = bytes.fromhex("6781050a01")  # 2.23.133.10.1
_LOADABLE = _TYPE + b"\x03"
_OTHER_TYPES = {_TYPE + b"\x04": "an importable key", _TYPE + b"\x05": "sealed data"}

HIERARCHIES = {0x40000001: "owner", 0x40000007: "null", 0x4000000B: "endorsement", 0x4000000C: "platform"}
PERSISTENT = range(0x81000000, 0x82000000)


@dataclass(frozen=True)
class TSS2Key:
    """What a TSS2 PRIVATE KEY says of its key.

    Attributes:
        empty_auth: whether the key's auth value is empty. tpm2_encodeobject 5.7 writes the opposite of the truth.
        parent: the handle of its parent: one of PERSISTENT, or of HIERARCHIES, for a primary key there.
        public: the public area, a marshalled TPM2B_PUBLIC (TPM 2.0 Library, part 2, 12.2.5).
        private: the encrypted private area, a marshalled TPM2B_PRIVATE (part 2, 12.3.7).
    """

    empty_auth: bool
    parent: int
    public: bytes
    private: bytes = field(repr=False)


def parse_tss2(der: bytes, name: str) -> TSS2Key:
    """Read the DER of a TSS2 PRIVATE KEY.

    Args:
        der: the DER, without its PEM armour.
        name: what to call the key in messages.

    Raises:
        UnsupportedKeyError: it is damaged, of another kind than a loadable key, or has a policy or an unknown parent.
    """
    try:
        optional, fields = _fields(der)
        empty_auth = _flag(optional, _EMPTY_AUTH)
        rsa_parent = _flag(optional, _RSA_PARENT)
    except ValueError as error:
        raise UnsupportedKeyError(f"{name} is no TSS2 PRIVATE KEY: {error}", "It may be damaged") from error
    kind, parent, public, private = fields
    if kind != _LOADABLE:
        raise UnsupportedKeyError(
            f"{name} holds {_OTHER_TYPES.get(kind, 'a TPM object of an unknown type')}", "Use a loadable key"
        )
    if _POLICY in optional or _AUTH_POLICY in optional:
        raise UnsupportedKeyError(f"key {name} has a policy", "Use a key that an auth value alone unlocks")
    handle = int.from_bytes(parent, "big")
    if rsa_parent or not (handle in HIERARCHIES or handle in PERSISTENT):
        raise UnsupportedKeyError(
            f"key {name} has an unsupported parent, {'an RSA primary key' if rsa_parent else hex(handle)}",
            "Make it under a persistent key, or under the ECC P-256 primary key of a hierarchy",
        )
    return TSS2Key(empty_auth, handle, public, private)


def _fields(der: bytes) -> tuple[dict[int, bytes], list[bytes]]:
    """Return the optional fields by their tags, and the contents of the four others."""
    optional: dict[int, bytes] = {}
    others: list[tuple[int, bytes]] = []
    for class_, tag, content in _elements(_content(der, _SEQUENCE)):
        if class_ == _CONTEXT:
            optional[tag] = content
        else:
            others.append((tag, content))
    if [tag for tag, _ in others] != [_OID, _INTEGER, _OCTET_STRING, _OCTET_STRING]:
        raise ValueError("its fields are not those of one")
    return optional, [content for _, content in others]


def _flag(optional: dict[int, bytes], tag: int) -> bool:
    return tag in optional and any(_content(optional[tag], _BOOLEAN))


def _content(der: bytes, tag: int) -> bytes:
    """Return the content of the one element that the bytes are."""
    elements = list(_elements(der))
    if [element[:2] for element in elements] != [(0, tag)]:
        raise ValueError(f"an element of ASN.1 tag {tag} is missing")
    return elements[0][2]


def _elements(der: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the class, tag and content of each element."""
    while der:
        class_, _, tag, header, content, trailer = parser.parse(der)
        yield class_, tag, content
        der = der[len(header) + len(content) + len(trailer) :]
