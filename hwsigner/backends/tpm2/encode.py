"""Write a TSS2 PRIVATE KEY, as DER (ITU-T X.690) and as PEM (RFC 7468)."""

from __future__ import annotations

import binascii
import textwrap
from collections.abc import Iterable

from asn1crypto import parser

from hwsigner.backends.tpm2 import key_file as _tss2
from hwsigner.backends.tpm2.key_file import AuthPolicy, PolicyCommand, TSS2Key

_CONSTRUCTED, _UNIVERSAL = 1, 0
_TRUE = b"\xff"


def write_tss2(key: TSS2Key) -> bytes:
    """Return the DER of a key. What is false or empty is left out, as the draft recommends."""
    kind = _tss2.IMPORTABLE if key.secret else _tss2.LOADABLE
    optional = (
        (_tss2.EMPTY_AUTH, _primitive(_tss2.BOOLEAN, _TRUE) if key.empty_auth else b""),
        (_tss2.POLICY, _commands(key.policy) if key.policy else b""),
        (_tss2.SECRET, _primitive(_tss2.OCTET_STRING, key.secret) if key.secret else b""),
        (_tss2.AUTH_POLICY, _sequence(map(_auth_policy, key.auth_policies)) if key.auth_policies else b""),
        (_tss2.DESCRIPTION, _text(key.description) if key.description else b""),
        (_tss2.RSA_PARENT, _primitive(_tss2.BOOLEAN, _TRUE) if key.rsa_parent else b""),
    )
    return _sequence(
        [
            _primitive(_tss2.OID, kind),
            *(_explicit(tag, content) for tag, content in optional if content),
            _integer(key.parent),
            _primitive(_tss2.OCTET_STRING, key.public),
            _primitive(_tss2.OCTET_STRING, key.private),
        ]
    )


def write_tss2_pem(key: TSS2Key) -> str:
    """Return a key as PEM."""
    base64 = binascii.b2a_base64(write_tss2(key), newline=False).decode("ascii")
    return "\n".join([f"-----BEGIN {_tss2.LABEL}-----", *textwrap.wrap(base64, 64), f"-----END {_tss2.LABEL}-----", ""])


def _auth_policy(policy: AuthPolicy) -> bytes:
    name = [_explicit(_tss2.NAME, _text(policy.name))] if policy.name else []
    return _sequence([*name, _explicit(_tss2.SIGNED_POLICY, _commands(policy.commands))])


def _commands(commands: Iterable[PolicyCommand]) -> bytes:
    return _sequence(map(_command, commands))


def _command(command: PolicyCommand) -> bytes:
    body = _primitive(_tss2.OCTET_STRING, command.body)
    return _sequence([_explicit(_tss2.COMMAND_CODE, _integer(command.code)), _explicit(_tss2.COMMAND_POLICY, body)])


def _integer(value: int) -> bytes:
    """Return a positive INTEGER, whose first bit is its sign."""
    return _primitive(_tss2.INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _text(text: str) -> bytes:
    return _primitive(_tss2.UTF8_STRING, text.encode())


def _sequence(elements: Iterable[bytes]) -> bytes:
    return bytes(parser.emit(_UNIVERSAL, _CONSTRUCTED, _tss2.SEQUENCE, b"".join(elements)))


def _explicit(tag: int, element: bytes) -> bytes:
    return bytes(parser.emit(_tss2.CONTEXT, _CONSTRUCTED, tag, element))


def _primitive(tag: int, content: bytes) -> bytes:
    return bytes(parser.emit(_UNIVERSAL, 0, tag, content))
