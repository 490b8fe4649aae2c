"""What the tokens of all modules show: keys, certificates, and the state of the PIN."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

from pkcs11 import ObjectClass, TokenFlag
from pkcs11.types import Session, Token

from hwsigner.backends.pkcs11.der import certificate_public_key
from hwsigner.backends.pkcs11.module import load_module
from hwsigner.backends.pkcs11.objects import (
    PrivateKeyObject,
    find_certificate_objects,
    key_kind,
    private_keys,
    public_key,
    public_key_of,
    search_named,
)
from hwsigner.backends.pkcs11.paths import listed_paths, names_module, unconfigured_paths
from hwsigner.backends.pkcs11.pins import has_keypad, pin_state
from hwsigner.backends.pkcs11.search import FoundToken, using
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.backends.pkcs11.uris import object_uri, serial_text, token_uri
from hwsigner.errors import AmbiguousKeyError, HwsignerWarning, PinError, SigningKeyError
from hwsigner.key import ListedObject, ListedToken
from hwsigner.pins import PinSource
from hwsigner.system.stderr import quiet
from hwsigner.uri import KeyURI


def inventory(uri: KeyURI, login: PinSource | None) -> Iterator[ListedToken]:
    """Yield the tokens that a URI names, in the order of the modules; see `hwsigner.key.list_tokens`.

    Args:
        uri: the URI.
        login: where the PIN for the single token that it names comes from, or None to log in to none.
    """
    tokens = _tokens(uri)
    if login is not None and len(tokens) > 1:
        listed = ", ".join(str(token_uri(one.token, one.uri)) for one in tokens)
        raise AmbiguousKeyError(f"{uri.name} names {len(tokens)} tokens, and a PIN goes to one: {listed}", "Name one")
    for found in tokens:
        place = token_uri(found.token, found.uri, [one.token for one in tokens if one.module is found.module])
        listed_token = _listed_token(found, place)
        try:
            with using(found) as token:
                if login is not None and token.can_log_in:
                    token.forget_refusal()
                    token.log_in(uri, login)
                objects = _objects(token, uri, place)
                # A login changes what the token says of its PIN.
                found = found._replace(token=token.token.slot.get_token())
                listed_token = replace(_listed_token(found, place), objects=objects)
        except PinError:
            raise
        except SigningKeyError as error:
            warnings.warn(HwsignerWarning(error.message, error.hint), stacklevel=2)
        yield listed_token


def _tokens(uri: KeyURI) -> list[FoundToken]:
    paths = listed_paths(uri)
    found: list[FoundToken] = []
    errors: dict[str, SigningKeyError] = {}
    for path in paths:
        try:
            found += _tokens_of(path, uri)
        except SigningKeyError as error:
            if len(paths) == 1:
                raise
            errors[path] = error
    # One that nobody has configured is missed only where no other one has what is looked for.
    unmissed = set(unconfigured_paths()) if found and errors else set()
    for path, failed in errors.items():
        if path not in unmissed:
            warnings.warn(HwsignerWarning(failed.message, failed.hint), stacklevel=3)
    return found


def _tokens_of(path: str, uri: KeyURI) -> list[FoundToken]:
    within = uri.with_query("module-path", path)
    with quiet():
        module = load_module(within)
        matching = [token for token in module.tokens() if module.matches(token, uri)]
    return [FoundToken(module, token, uri if names_module(uri) else within) for token in matching]


def _listed_token(found: FoundToken, place: KeyURI) -> ListedToken:
    token = found.token
    return ListedToken(
        module=found.module.path,
        label=token.label,
        manufacturer=token.manufacturer_id,
        model=token.model,
        serial=serial_text(token),
        slot_id=token.slot.slot_id,
        uri=str(place),
        wants_login=bool(token.flags & TokenFlag.LOGIN_REQUIRED),
        has_keypad=has_keypad(token),
        pin_state=_pin_state(token),
    )


def _pin_state(token: Token) -> str:
    if not token.flags & TokenFlag.USER_PIN_INITIALIZED:
        return "not set"
    return pin_state(token) or "good"


def _objects(token: OpenToken, uri: KeyURI, place: KeyURI) -> tuple[ListedObject, ...]:
    session = token.session()
    keys = private_keys(search_named(session, ObjectClass.PRIVATE_KEY, uri))
    listed = [_key(one, object_uri(one, place, uri, keys), public_key_of(session, one)) for one in keys]
    if token.can_log_in or token.wants_login:
        listed += _hidden_keys(session, uri, place, {one.id for one in keys})
    certificates = find_certificate_objects(session, uri)
    for one in certificates:
        public, name = certificate_public_key(one.der), object_uri(one, place, uri, certificates)
        found = ListedObject("certificate", _text(one.label), one.id, name, public_key=public, certificate=one.der)
        listed.append(found)
    return tuple(listed)


def _hidden_keys(session: Session, uri: KeyURI, place: KeyURI, shown: set[bytes]) -> list[ListedObject]:
    """Return the private keys that may be seen after a login, as their public key objects show them."""
    hidden = [one for one in private_keys(search_named(session, ObjectClass.PUBLIC_KEY, uri)) if one.id not in shown]
    ids = [one.id for one in hidden]
    listed = []
    for one in hidden:
        # The label of the private key may be another one.
        known = replace(one, label=b"") if one.id and ids.count(one.id) == 1 else one
        name = object_uri(known, place, uri)
        listed.append(_key(one, name, public_key(one.object), is_hidden=True))
    return listed


def _key(key: PrivateKeyObject, uri: str, public_key: bytes | None, *, is_hidden: bool = False) -> ListedObject:
    return ListedObject(
        kind="key",
        label=_text(key.label),
        id=key.id,
        uri=uri,
        algorithm=key_kind(key.key_type),
        public_key=public_key,
        is_hidden=is_hidden,
        pin_for_each_signature=key.always_authenticate,
    )


def _text(label: bytes) -> str:
    return label.decode("utf-8", "backslashreplace")
