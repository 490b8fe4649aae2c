"""Which token, and which key on it, a `pkcs11:` URI names; and what to list where it names none or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from pkcs11 import PKCS11Error
from pkcs11.types import Token

from hwsigner.backends.pkcs11.module import Module, load_module
from hwsigner.backends.pkcs11.objects import (
    PrivateKeyObject,
    find_certificate_objects,
    find_private_keys,
    has_visible_match,
    supported,
    with_public_key,
)
from hwsigner.backends.pkcs11.paths import module_paths, names_module, unconfigured_paths
from hwsigner.backends.pkcs11.token import OpenToken, acquire
from hwsigner.backends.pkcs11.uris import Found, object_uri, token_uri
from hwsigner.errors import AmbiguousKeyError, BackendUnavailableError, KeyNotFoundError, SigningKeyError
from hwsigner.pins import PinSource
from hwsigner.system.stderr import quiet
from hwsigner.uri import KeyURI

_LISTED = 10


class FoundToken(NamedTuple):
    """A token that a URI names, its module, and the URI: with the module where several were searched."""

    module: Module
    token: Token
    uri: KeyURI


def find_tokens(uri: KeyURI) -> list[FoundToken]:
    """Return the tokens that a URI names, at least one.

    Raises:
        UsageError: the URI's module can't be meant.
        BackendUnavailableError: the module or a token is missing.
    """
    paths = module_paths(uri)
    if len(paths) == 1:
        try:
            return _tokens_of(paths[0], uri)
        except BackendUnavailableError as error:
            unseen = [] if names_module(uri) else unconfigured_paths()
            if not unseen:
                raise
            advice = f"p11-kit was asked, which is not configured for {', '.join(unseen)}: name such with --pkcs11-lib"
            raise BackendUnavailableError(error.message, f"{error.hint}; {advice}") from error
    found, errors = [], []
    for path in paths:
        try:
            found += _tokens_of(path, uri.with_query("module-path", path))
        except SigningKeyError as error:
            errors.append(str(error))
    if not found:
        raise BackendUnavailableError(
            f"no token of {len(paths)} PKCS #11 modules matches {uri.name}", "; ".join(errors)
        )
    return found


def choose_token(uri: KeyURI, public_key: bytes | None) -> FoundToken:
    """Return the one token that the URI names. A PIN goes to one token only: a doubt is an error before any login.

    Raises:
        AmbiguousKeyError: several are named, and what they show does not decide.
        BackendUnavailableError: there is none.
    """
    tokens = find_tokens(uri)
    if len(tokens) == 1:
        return tokens[0]
    holding = [one for one in tokens if _shows_key(one, uri, public_key)]
    if len(holding) == 1:
        return holding[0]
    doubtful = holding or tokens
    others = [one.token for one in doubtful]
    listed = ", ".join(str(token_uri(one.token, one.uri, others)) for one in doubtful)
    raise AmbiguousKeyError(
        f"{uri.name} names {len(doubtful)} tokens: {listed}",
        "Name one of them in the key URI; no PIN was sent to any",
    )


def find_key(token: OpenToken, uri: KeyURI, pins: PinSource, public_key: bytes | None) -> PrivateKeyObject:
    """Return the private key that the URI names on a token, after a login if the token wants one or shows none.

    Raises:
        KeyNotFoundError, AmbiguousKeyError: there is none, or several, and the public key does not decide.
        UnsupportedKeyError: it may not sign, or the service does not take its kind.
        PinError: see `OpenToken.log_in`.
    """
    if token.wants_login:
        token.log_in(uri, pins, public_key)
    keys = find_private_keys(token.session(), uri, public_key)
    if not keys and token.can_log_in:
        token.log_in(uri, pins, public_key)
        keys = find_private_keys(token.session(), uri, public_key)
    if len(keys) > 1 and public_key is not None:
        keys = with_public_key(token.session(), keys, {public_key}) or keys
    if len(keys) > 1:
        are_alike = len({(key.id, key.label) for key in keys}) < len(keys)
        advice = "Give each a label or id of its own" if are_alike else "Use one of"
        raise AmbiguousKeyError(
            f"{uri.name} names {len(keys)} keys on {token.name}", f"{advice}: {_listed(token, keys, uri)}"
        )
    if not keys:
        raise _not_found(token, uri)
    return supported(keys[0], uri)


@contextmanager
def using(found: FoundToken) -> Iterator[OpenToken]:
    """Give a token to be searched, and release it. What it fails with is a SigningKeyError that names it."""
    token = acquire(found.module, found.token)
    try:
        with token.lock:
            yield token
    except PKCS11Error as error:
        raise token.error("can't be searched", error) from error
    finally:
        token.release()


def _tokens_of(path: str, uri: KeyURI) -> list[FoundToken]:
    with quiet():
        module = load_module(uri.with_query("module-path", path))
        return [FoundToken(module, token, uri) for token in module.matching_tokens(uri)]


def _shows_key(found: FoundToken, uri: KeyURI, public_key: bytes | None) -> bool:
    try:
        with using(found) as token:
            return has_visible_match(token.session(), uri, public_key)
    except SigningKeyError:
        return False  # One that can't be searched does not keep another one from being used.


def _not_found(token: OpenToken, uri: KeyURI) -> KeyNotFoundError:
    anything = KeyURI("pkcs11", {}, uri.query)
    keys = find_private_keys(token.session(), anything)
    certificates = find_certificate_objects(token.session(), anything)
    listed = _listed(token, (*keys, *certificates), uri)
    hint = f"It holds {listed}" if listed else "It holds no keys and no certificates"
    return KeyNotFoundError(f"no key is named by {uri.name} on {token.name}", hint)


def _listed(token: OpenToken, found: Sequence[Found], uri: KeyURI) -> str:
    place = token_uri(token.token, uri)
    uris = [object_uri(one, place, uri, found) for one in found[:_LISTED]]
    return ", ".join(uris) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
