"""Which token, and which key on it, a `pkcs11:` URI names; and what to list where it names none or several."""

from __future__ import annotations

from collections.abc import Sequence

from pkcs11 import PKCS11Error
from pkcs11.types import Token

from hwsigner.backends._pkcs11_module import Module, serial_text
from hwsigner.backends._pkcs11_objects import (
    CertificateObject,
    PrivateKeyObject,
    find_certificate_objects,
    find_private_keys,
    has_visible_match,
    object_uri,
    public_key_of,
    supported,
)
from hwsigner.backends._pkcs11_token import OpenToken, acquire
from hwsigner.errors import AmbiguousKeyError, KeyNotFoundError
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI

_LISTED = 10


def choose_token(module: Module, uri: KeyURI, public_key: bytes | None) -> Token:
    """Return the one token that the URI names. A PIN goes to one token only: a doubt is an error before any login."""
    tokens = module.matching_tokens(uri)
    if len(tokens) == 1:
        return tokens[0]
    holding = [token for token in tokens if _shows_key(module, token, uri, public_key)]
    if len(holding) == 1:
        return holding[0]
    listed = ", ".join(f"'{token.label}' (serial {serial_text(token)})" for token in holding or tokens)
    raise AmbiguousKeyError(
        f"{uri.name} names {len(holding or tokens)} tokens: {listed}",
        "Add token= or serial= to the key URI; no PIN was sent to any of them",
    )


def _shows_key(module: Module, token: Token, uri: KeyURI, public_key: bytes | None) -> bool:
    opened = acquire(module, token)
    try:
        return has_visible_match(opened.session(), uri, public_key)
    except PKCS11Error as error:
        raise opened.error("can't be searched", error) from error
    finally:
        opened.release()


def find_key(token: OpenToken, uri: KeyURI, pins: PinSource, public_key: bytes | None) -> PrivateKeyObject:
    if token.wants_login:
        token.log_in(uri, pins)
    keys = find_private_keys(token.session(), uri)
    if not keys and token.can_log_in:
        token.log_in(uri, pins)
        keys = find_private_keys(token.session(), uri)
    if len(keys) > 1 and public_key is not None:
        keys = [key for key in keys if public_key_of(token.session(), key) == public_key][:1] or keys
    if len(keys) > 1:
        raise AmbiguousKeyError(
            f"{uri.name} names {len(keys)} keys on {token.name}", f"Use one of {_listed(token, keys, uri)}"
        )
    if not keys:
        raise _not_found(token, uri)
    return supported(keys[0], uri)


def _not_found(token: OpenToken, uri: KeyURI) -> KeyNotFoundError:
    anything = KeyURI("pkcs11", {}, uri.query)
    keys = find_private_keys(token.session(), anything)
    certificates = find_certificate_objects(token.session(), anything)
    listed = _listed(token, (*keys, *certificates), uri)
    hint = f"It holds {listed}" if listed else "It holds no keys and no certificates"
    return KeyNotFoundError(f"no key is named by {uri.name} on {token.name}", hint)


def _listed(token: OpenToken, found: Sequence[PrivateKeyObject | CertificateObject], uri: KeyURI) -> str:
    uris = [object_uri(token.token, one, uri) for one in found[:_LISTED]]
    return ", ".join(uris) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
