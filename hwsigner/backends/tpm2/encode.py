"""Write a TSS2 PRIVATE KEY, as DER (ITU-T X.690) and as PEM (RFC 7468)."""

from __future__ import annotations

import binascii
import textwrap
from collections.abc import Iterable

from asn1crypto import parser

from hwsigner.backends.pem import BOOLEAN, CONTEXT, INTEGER, OCTET_STRING, OID, SEQUENCE, UNIVERSAL, UTF8_STRING
from hwsigner.backends.tpm2 import key_file
from hwsigner.backends.tpm2.key_file import AuthPolicy, PolicyCommand, TSS2Key

_CONSTRUCTED = 1
_TRUE = b"\xff"


def write_tss2(key: TSS2Key) -> bytes:
    """Return the DER of a key. False and empty fields are omitted, as the draft recommends."""
    kind = key_file.IMPORTABLE if key.secret else key_file.LOADABLE
    optional = (
        (key_file.EMPTY_AUTH, _primitive(BOOLEAN, _TRUE) if key.empty_auth else b""),
        (key_file.POLICY, _commands(key.policy) if key.policy else b""),
        (key_file.SECRET, _primitive(OCTET_STRING, key.secret) if key.secret else b""),
        (key_file.AUTH_POLICY, _sequence(map(_auth_policy, key.auth_policies)) if key.auth_policies else b""),
        (key_file.DESCRIPTION, _text(key.description) if key.description else b""),
        (key_file.RSA_PARENT, _primitive(BOOLEAN, _TRUE) if key.rsa_parent else b""),
    )
    return _sequence(
        [
            _primitive(OID, kind),
            *(_explicit(tag, content) for tag, content in optional if content),
            _integer(key.parent),
            _primitive(OCTET_STRING, key.public),
            _primitive(OCTET_STRING, key.private),
        ]
    )


def write_tss2_pem(key: TSS2Key) -> str:
    """Return a key as PEM, after its parent's Name, if that is known. Readers of PEM skip such text (RFC 7468, 2)."""
    base64 = binascii.b2a_base64(write_tss2(key), newline=False).decode("ascii")
    name = [f"{key_file.PARENT_NAME}{key.parent_name}"] if key.parent_name else []
    block = [f"-----BEGIN {key_file.LABEL}-----", *textwrap.wrap(base64, 64), f"-----END {key_file.LABEL}-----", ""]
    return "\n".join([*name, *block])


def _auth_policy(policy: AuthPolicy) -> bytes:
    name = [_explicit(key_file.NAME, _text(policy.name))] if policy.name else []
    return _sequence([*name, _explicit(key_file.SIGNED_POLICY, _commands(policy.commands))])


def _commands(commands: Iterable[PolicyCommand]) -> bytes:
    return _sequence(map(_command, commands))


def _command(command: PolicyCommand) -> bytes:
    body = _primitive(OCTET_STRING, command.body)
    return _sequence(
        [_explicit(key_file.COMMAND_CODE, _integer(command.code)), _explicit(key_file.COMMAND_POLICY, body)]
    )


def _integer(value: int) -> bytes:
    """Return a positive INTEGER. Its first bit is its sign."""
    return _primitive(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _text(text: str) -> bytes:
    return _primitive(UTF8_STRING, text.encode())


def _sequence(elements: Iterable[bytes]) -> bytes:
    return bytes(parser.emit(UNIVERSAL, _CONSTRUCTED, SEQUENCE, b"".join(elements)))


def _explicit(tag: int, element: bytes) -> bytes:
    return bytes(parser.emit(CONTEXT, _CONSTRUCTED, tag, element))


def _primitive(tag: int, content: bytes) -> bytes:
    return bytes(parser.emit(UNIVERSAL, 0, tag, content))
