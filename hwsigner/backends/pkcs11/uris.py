"""The URIs that name a token, or an object on it, alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pkcs11.types import Token

from hwsigner.backends.pkcs11.objects import CertificateObject, PrivateKeyObject
from hwsigner.uri import KeyURI

Identity = tuple[str, str, bytes, str]

TOKEN_ATTRIBUTES = frozenset(
    {
        *("token", "manufacturer", "model", "serial", "slot-id", "slot-manufacturer", "slot-description"),
        *("library-manufacturer", "library-description", "library-version"),
    }
)
# python-pkcs11 cuts any white space off, other tools' URIs have it but for spaces.
_PADDING = re.compile(r"[\s\0]+\Z")
# Those that are a token's own, or its place; a manufacturer or model is that of many.
_NAMING = frozenset({"token", "serial", "slot-id", "slot-description"})


def identity_of(token: Token) -> Identity:
    """Return what stays the same of a token wherever it is inserted. Cards without a serial number may share it."""
    return token.manufacturer_id, token.model, token.serial, token.label


def serial_text(token: Token) -> str:
    """Return a token's serial number as the text that a URI bears."""
    return token.serial.rstrip(b" \0").decode("utf-8", "replace")


def names_token(uri: KeyURI) -> bool:
    """Tell whether a URI says which token it means, and not only which key."""
    return bool(_NAMING & uri.path.keys())


def matches(token: Token, library: Any, uri: KeyURI) -> bool:
    """Tell whether a URI's attributes of token, slot and module are this token's; padding does not count.

    Args:
        token: the token.
        library: python-pkcs11's object for its module.
        uri: the URI.
    """
    actual = _attributes(token, library)
    wanted = {name: _unpadded(uri.path[name].decode("utf-8", "replace")) for name in actual if name in uri.path}
    if "." not in wanted.get("library-version", "."):
        wanted["library-version"] += ".0"  # RFC 7512, 2.3: a major version alone.
    return all(_unpadded(actual[name]) == value for name, value in wanted.items())


def _unpadded(text: str) -> str:
    return _PADDING.sub("", text)


def _attributes(token: Token, library: Any) -> Mapping[str, str]:
    slot, version = token.slot, library.library_version
    return {
        "token": token.label,
        "manufacturer": token.manufacturer_id,
        "model": token.model,
        "serial": serial_text(token),
        "slot-id": str(slot.slot_id),
        "slot-manufacturer": slot.manufacturer_id,
        "slot-description": slot.slot_description,
        "library-manufacturer": library.manufacturer_id,
        "library-description": library.library_description,
        "library-version": f"{version[0]}.{version[1]}",
    }


Found = PrivateKeyObject | CertificateObject


def token_uri(token: Token, uri: KeyURI, others: Iterable[Token] = ()) -> KeyURI:
    """Return the URI of a token that was found by another URI: with its attributes of tokens, and its module.

    Args:
        token: the token.
        uri: what it was found by.
        others: the tokens that were found with it. One with the same label and serial number is told by its slot.
    """
    names = {"token": token.label, "serial": serial_text(token)}
    # What is not UTF-8 can't be had: python-pkcs11 puts a replacement character for it.
    path = {name: text.encode() for name, text in names.items() if text and "\ufffd" not in text}
    path |= {name: value for name, value in uri.path.items() if name in TOKEN_ATTRIBUTES}
    twins = [one for one in others if (one.label, one.serial) == (token.label, token.serial)]
    if not path or any(one.slot.slot_id != token.slot.slot_id for one in twins):
        path["slot-id"] = str(token.slot.slot_id).encode()
    return KeyURI("pkcs11", path, {name: value for name, value in uri.query.items() if name.startswith("module-")})


def object_uri(found: Found, token: KeyURI, uri: KeyURI, others: Sequence[Found] = ()) -> str:
    """Return the URI of an object.

    Args:
        found: the object.
        token: its token, as `token_uri` has it.
        uri: what it was found by.
        others: the objects that were found with it. An empty label or id is written where it tells them apart.
    """
    names = _names(found)
    shown = {name: value for name, value in names.items() if value or uri.path.get(name) == b""}
    alike = [one for one in others if type(one) is type(found) and shown.items() <= _names(one).items()]
    kind = b"cert" if isinstance(found, CertificateObject) else b"private"
    return str(KeyURI("pkcs11", {**token.path, **(names if len(alike) > 1 else shown), "type": kind}, token.query))


def _names(found: Found) -> dict[str, bytes]:
    return {"id": found.id, "object": found.label}
