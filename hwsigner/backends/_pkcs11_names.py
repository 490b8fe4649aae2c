"""The URIs that name a token, or an object on it, alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pkcs11.types import Token

from hwsigner.backends._pkcs11_identity import TOKEN_ATTRIBUTES, serial_text
from hwsigner.backends._pkcs11_objects import CertificateObject, PrivateKeyObject
from hwsigner.uri import KeyURI

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
