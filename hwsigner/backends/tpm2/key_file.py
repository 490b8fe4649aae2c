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

    TPMPolicy ::= SEQUENCE {
        commandCode   [0] EXPLICIT INTEGER,
        commandPolicy [1] EXPLICIT OCTET STRING }

    TPMAuthPolicy ::= SEQUENCE {
        name   [0] EXPLICIT UTF8String OPTIONAL,
        policy [1] EXPLICIT SEQUENCE OF TPMPolicy }

Writers differ, so more is accepted than DER allows: TRUE as 0x01, and unknown fields.
"""

from __future__ import annotations

from typing import NamedTuple

from hwsigner.backends import pem
from hwsigner.errors import UnsupportedKeyError

LABEL = "TSS2 PRIVATE KEY"
EMPTY_AUTH, POLICY, SECRET, AUTH_POLICY, DESCRIPTION, RSA_PARENT = range(6)
COMMAND_CODE, COMMAND_POLICY = 0, 1
NAME, SIGNED_POLICY = 0, 1

_TYPE = bytes.fromhex("6781050a01")  # 2.23.133.10.1
LOADABLE, IMPORTABLE, _SEALED = (_TYPE + bytes([number]) for number in (3, 4, 5))
_INTEGER_BYTES = 16

# The line before the PEM of a key that was made here. It names the chip, as a cleared one gives its keys another Name.
PARENT_NAME = "Parent's TPM Name: "

HIERARCHIES = {0x40000001: "owner", 0x40000007: "null", 0x4000000B: "endorsement", 0x4000000C: "platform"}
PERSISTENT = range(0x81000000, 0x82000000)


class PolicyCommand(NamedTuple):
    """One command of a policy."""

    code: int  # TPM 2.0 Library, part 2, 6.5.2.
    body: bytes = b""  # Its parameters, marshalled.


class AuthPolicy(NamedTuple):
    """A policy that is one of several branches of the key's own, usually a signed one."""

    commands: tuple[PolicyCommand, ...]
    name: str = ""


class TSS2Key(NamedTuple):
    """The content of a TSS2 PRIVATE KEY.

    `secret` is the seed that the private area of an importable key is encrypted with, a marshalled
    TPM2B_ENCRYPTED_SECRET (part 2, 11.4.3); otherwise it is empty.
    """

    empty_auth: bool  # Whether the key's auth value is empty. tpm2_encodeobject before 5.8 writes the opposite.
    parent: int  # A handle: one of PERSISTENT, or of HIERARCHIES, for a primary key there.
    public: bytes  # A marshalled TPM2B_PUBLIC (TPM 2.0 Library, part 2, 12.2.5).
    private: bytes  # Encrypted: a marshalled TPM2B_PRIVATE (part 2, 12.3.7).
    secret: bytes = b""
    policy: tuple[PolicyCommand, ...] = ()  # What a use of the key takes, in order; none if its auth value unlocks it.
    auth_policies: tuple[AuthPolicy, ...] = ()  # What can go before them, one of them at a time.
    description: str = ""
    rsa_parent: bool = False  # Whether the primary key of a hierarchy is RSA 2048, not ECC P-256.
    parent_name: str = ""  # The parent's TPM Name in hexadecimal; empty if the file does not say it.

    def __repr__(self) -> str:
        return f"TSS2Key(parent={self.parent:#x}, description={self.description!r})"


def parse_tss2(der: bytes, name: str) -> TSS2Key:
    """Read the DER of a TSS2 PRIVATE KEY, which messages call `name`.

    A damaged one, a key that is neither loadable nor importable, and an unknown parent are UnsupportedKeyErrors.
    """
    try:
        optional, (kind, parent, public, private) = _fields(der)
        key = TSS2Key(
            empty_auth=_flag(optional, EMPTY_AUTH),
            parent=_number(parent),
            public=public,
            private=private,
            secret=_sized(_content(optional[SECRET], pem.OCTET_STRING)) if SECRET in optional else b"",
            policy=_commands(optional.get(POLICY)),
            auth_policies=_auth_policies(optional.get(AUTH_POLICY)),
            description=_text(optional.get(DESCRIPTION)),
            rsa_parent=_flag(optional, RSA_PARENT),
        )
    except ValueError as error:
        raise UnsupportedKeyError(f"{name} is not a {LABEL}: {error}", "Check if the file is damaged") from error
    _check_kind(kind, key, name)
    if not (key.parent in HIERARCHIES or key.parent in PERSISTENT):
        raise UnsupportedKeyError(
            f"key {name} has an unsupported parent, {key.parent:#x}",
            "Create it under a persistent key, or under the primary key of a hierarchy",
        )
    return key


def _check_kind(kind: bytes, key: TSS2Key, name: str) -> None:
    if kind == _SEALED:
        raise UnsupportedKeyError(f"{name} holds sealed data, not a key", "Use a loadable or importable key")
    if kind not in (LOADABLE, IMPORTABLE):
        raise UnsupportedKeyError(f"{name} holds a TPM object of an unknown type", "Use a loadable or importable key")
    if (kind == IMPORTABLE) is not bool(key.secret):
        fault = "an importable key without its secret" if kind == IMPORTABLE else "a loadable key with a secret"
        raise UnsupportedKeyError(f"{name} holds {fault}", "Write the file again, with the tool that made it")


def _fields(der: bytes) -> tuple[dict[int, bytes], list[bytes]]:
    """Return the optional fields by tag, and the contents of the four others."""
    optional: dict[int, bytes] = {}
    others: list[tuple[int, bytes]] = []
    for tag_class, tag, content in pem.elements(_content(der, pem.SEQUENCE)):
        if tag_class == pem.CONTEXT:
            optional[tag] = content
        else:
            others.append((tag, content))
    if [tag for tag, _ in others] != [pem.OID, pem.INTEGER, pem.OCTET_STRING, pem.OCTET_STRING]:
        raise ValueError("it has other fields")
    return optional, [content for _, content in others]


def _commands(der: bytes | None) -> tuple[PolicyCommand, ...]:
    if der is None:
        return ()
    return tuple(_command(content) for content in _sequences(der))


def _command(content: bytes) -> PolicyCommand:
    fields = _tagged(content)
    code = _content(fields.get(COMMAND_CODE, b""), pem.INTEGER)
    return PolicyCommand(_number(code), _content(fields.get(COMMAND_POLICY, b""), pem.OCTET_STRING))


def _auth_policies(der: bytes | None) -> tuple[AuthPolicy, ...]:
    if der is None:
        return ()
    fields = [_tagged(content) for content in _sequences(der)]
    return tuple(AuthPolicy(_commands(one.get(SIGNED_POLICY, b"")), _text(one.get(NAME))) for one in fields)


def _sequences(der: bytes) -> list[bytes]:
    """Return the contents of the SEQUENCEs in a SEQUENCE OF them."""
    found = list(pem.elements(_content(der, pem.SEQUENCE)))
    if any(element[:2] != (pem.UNIVERSAL, pem.SEQUENCE) for element in found):
        raise ValueError("its policy can't be read")
    return [element.content for element in found]


def _tagged(content: bytes) -> dict[int, bytes]:
    return {tag: inner for tag_class, tag, inner in pem.elements(content) if tag_class == pem.CONTEXT}


def _text(der: bytes | None) -> str:
    return "" if der is None else _content(der, pem.UTF8_STRING).decode("utf-8", "replace")


def _number(content: bytes) -> int:
    if len(content) > _INTEGER_BYTES:
        raise ValueError("a number is too long")
    return int.from_bytes(content, "big")


def _flag(optional: dict[int, bytes], tag: int) -> bool:
    return tag in optional and any(_content(optional[tag], pem.BOOLEAN))


def _sized(data: bytes) -> bytes:
    """Return a TPM2B with its size in front, which openssl_tpm2_engine omits from a secret."""
    return data if int.from_bytes(data[:2], "big") == len(data) - 2 else len(data).to_bytes(2, "big") + data


def _content(der: bytes, tag: int) -> bytes:
    """Return the content of bytes that are one element with this tag."""
    found = list(pem.elements(der))
    if [element[:2] for element in found] != [(pem.UNIVERSAL, tag)]:
        raise ValueError(f"an element of ASN.1 tag {tag} is missing")
    return found[0].content
