"""Which token, and which key on it, a `pkcs11:` URI names; and what to report if it names none or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from hwsigner._pins import PinSource
from hwsigner._system import pcsc
from hwsigner._system.notices import quiet
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import objects
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import TokenInfo
from hwsigner.backends.pkcs11.module import Module, load_module, token_uri
from hwsigner.backends.pkcs11.pairing import find_private_keys, has_visible_match
from hwsigner.backends.pkcs11.paths import is_softhsm, module_paths, names_module, softhsm_setting, unconfigured_paths
from hwsigner.backends.pkcs11.token import OpenToken, acquire
from hwsigner.errors import AmbiguousKeyError, BackendUnavailableError, KeyNotFoundError, SigningKeyError

_LISTED = 10

_ABSENT = "No token is present: insert one, or name another module"


class FoundToken(NamedTuple):
    """A token that a URI names, its module, and the URI: with the module if several were searched."""

    module: Module
    info: TokenInfo
    uri: KeyURI

    def named(self, others: Sequence[FoundToken]) -> KeyURI:
        """Return the URI that names the token alone, among others that were found with it."""
        return token_uri(self.info, self.uri, [one.info for one in others if one.module is self.module])


def find_tokens(uri: KeyURI) -> list[FoundToken]:
    """Return the tokens that a URI names, at least one.

    A missing module or token is a BackendUnavailableError.
    """
    paths = module_paths(uri)
    found: list[FoundToken] = []
    errors: list[SigningKeyError] = []
    for path in paths:
        within = uri if len(paths) == 1 else uri.with_query("module-path", path)
        try:
            with quiet():
                module = load_module(path)
                found += [FoundToken(module, info, within) for info in module.retry(partial(_matching, module, uri))]
        except SigningKeyError as error:
            errors.append(error)
    if found:
        return found
    if len(paths) > 1:
        message = f"no token of {len(paths)} PKCS #11 modules matches {uri.name}"
        raise BackendUnavailableError(message, "; ".join(map(str, errors)))
    unseen = [] if names_module(uri) else unconfigured_paths()
    if unseen and isinstance(errors[0], BackendUnavailableError):
        advice = f"p11-kit is not configured for {', '.join(unseen)}: name such a module with --pkcs11-lib"
        raise BackendUnavailableError(errors[0].message, f"{errors[0].hint}; {advice}") from errors[0]
    raise errors[0]


def _matching(module: Module, uri: KeyURI) -> list[TokenInfo]:
    found = module.matching_tokens(uri)
    if not found:
        listed = ", ".join(f"'{token.label}' (serial {token.serial})" for token in module.tokens())
        raise BackendUnavailableError(
            f"no token of PKCS #11 module {module.path} matches {uri.name}",
            f"Tokens present: {listed}" if listed else _absent(module.path),
        )
    return found


def _absent(path: str) -> str:
    """Return what to do if a module has no token."""
    if not is_softhsm(path):
        return pcsc.hint(_ABSENT)
    return f"Check {softhsm_setting()}, or make a token with softhsm2-util --init-token --free --label NAME"


def choose_token(uri: KeyURI, public_key: bytes | None) -> FoundToken:
    """Return the one token that the URI names. A PIN goes to one token only: in doubt there is an error before a login.

    If what they show does not decide among several, that is an AmbiguousKeyError.
    """
    tokens = find_tokens(uri)
    if len(tokens) == 1:
        return tokens[0]
    holding = [one for one in tokens if _shows_key(one, uri, public_key)]
    if len(holding) == 1:
        return holding[0]
    raise _several(uri, holding or tokens)


def only_token(uri: KeyURI) -> FoundToken:
    """Return the one token that the URI names, whatever is on it. If it names several, that is an AmbiguousKeyError."""
    tokens = find_tokens(uri)
    if len(tokens) > 1:
        raise _several(uri, tokens)
    return tokens[0]


def _several(uri: KeyURI, tokens: Sequence[FoundToken]) -> AmbiguousKeyError:
    problem = f"{uri.name} names {len(tokens)} tokens: {uris_of_tokens(tokens)}"
    return AmbiguousKeyError(problem, "Name one of them in the key URI; no PIN was sent to any")


def uris_of_tokens(tokens: Sequence[FoundToken]) -> str:
    """Return the URIs of tokens, for a message."""
    return ", ".join(str(one.named(tokens)) for one in tokens)


def _shows_key(found: FoundToken, uri: KeyURI, public_key: bytes | None) -> bool:
    try:
        with using(found) as token:
            return has_visible_match(token.current_session(), uri, public_key)
    except SigningKeyError:
        return False  # A token that can't be searched does not keep another one from being used.


@contextmanager
def using(found: FoundToken) -> Iterator[OpenToken]:
    """Lock a token to search it, and release it. Its errors become a SigningKeyError that names it."""
    token = acquire(found.module, found.info)
    try:
        with token.lock:
            yield token
    except PKCS11Error as error:
        raise token.error("can't be searched", error) from error
    finally:
        token.release()


def find_key(token: OpenToken, uri: KeyURI, pins: PinSource, public_key: bytes | None) -> objects.KeyObject:
    """Return the private key that the URI names on a token, if it can sign for the service; see `find_any_key`."""
    return objects.supported(find_any_key(token, uri, pins, public_key), uri)


def find_any_key(token: OpenToken, uri: KeyURI, pins: PinSource, public_key: bytes | None = None) -> objects.KeyObject:
    """Return the private key that the URI names on a token, after a login if the token wants one or shows none.

    If there is none, that is a KeyNotFoundError; if there are several and the public key does not decide, an
    AmbiguousKeyError.
    """
    if token.wants_login:
        token.log_in(uri, pins, public_key)
    keys = find_private_keys(token.current_session(), uri, public_key)
    if not keys and token.can_log_in:
        token.log_in(uri, pins, public_key)
        keys = find_private_keys(token.current_session(), uri, public_key)
    return _only_key(token, uri, keys)


def find_named_key(token: OpenToken, uri: KeyURI) -> objects.KeyObject:
    """Return the private key that has the URI's own label and id, on a token that is logged in to.

    `find_any_key` also follows certificates and public keys, and may then guess: not for what changes the token. If
    there is none, that is a KeyNotFoundError; if there are several, an AmbiguousKeyError.
    """
    return _only_key(token, uri, objects.find_objects(token.current_session(), uri).privates)


def _only_key(token: OpenToken, uri: KeyURI, keys: Sequence[objects.KeyObject]) -> objects.KeyObject:
    if len(keys) > 1:
        are_alike = len({(key.id, key.label) for key in keys}) < len(keys)
        advice = "Give each a label or id of its own" if are_alike else "Use one of"
        raise AmbiguousKeyError(
            f"{uri.name} names {len(keys)} keys on {token.name}", f"{advice}: {_uris_of(token, keys, uri)}"
        )
    if not keys:
        raise _not_found(token, uri)
    return keys[0]


def _not_found(token: OpenToken, uri: KeyURI) -> KeyNotFoundError:
    anything = KeyURI("pkcs11", {}, uri.query)
    found: list[objects.AnyObject] = [*find_private_keys(token.current_session(), anything)]
    found += objects.find_objects(token.current_session(), anything).certificates
    hint = f"It has {_uris_of(token, found, uri)}" if found else "It has no keys and no certificates"
    return KeyNotFoundError(f"no key is named by {uri.name} on {token.name}", hint)


def _uris_of(token: OpenToken, found: Sequence[objects.AnyObject], uri: KeyURI) -> str:
    place, names = token_uri(token.info, uri), objects.count_names(found)
    uris = [objects.object_uri(one, place, uri, names) for one in found[:_LISTED]]
    return ", ".join(uris) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
