"""The list of tokens, and of the keys and certificates that they show."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator

from hwsigner._pins import PinSource
from hwsigner._system.notices import quiet
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.functions import Attribute, PKCS11Session, TokenFlag
from hwsigner.backends.pkcs11.module import load_module
from hwsigner.backends.pkcs11.objects import KeyObject, count_names, find_objects, key_kind, object_uri
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.backends.pkcs11.paths import listed_paths, names_module, unconfigured_paths
from hwsigner.backends.pkcs11.pins import has_keypad, listed_pin_state
from hwsigner.backends.pkcs11.search import FoundToken, uris_of_tokens, using
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.errors import AmbiguousKeyError, HwsignerWarning, PinError, SigningKeyError
from hwsigner.key.listing import ListedObject, ListedToken


def list_tokens(uri: KeyURI, login: PinSource | None) -> Iterator[ListedToken]:
    """Yield the tokens that a URI names, in the order of the modules; see `hwsigner.key.listing.list_tokens`.

    `login` gives the PIN for the single token that it names; without it, none is logged in to.
    """
    tokens = _present_tokens(uri)
    if login is not None and len(tokens) > 1:
        problem = f"{uri.name} names {len(tokens)} tokens, and a PIN goes to one: {uris_of_tokens(tokens)}"
        raise AmbiguousKeyError(problem, "Name one of them in the key URI")
    for found in tokens:
        place = found.named(tokens)
        objects: tuple[ListedObject, ...] = ()
        try:
            with using(found) as token:
                if login is not None and token.can_log_in:
                    token.forget_refusal()
                    token.log_in(uri, login)
                objects = _objects(token, uri, place)
                # A login changes what the token says of its PIN.
                found = found._replace(info=found.module.functions.token(token.info.slot))
        except PinError:
            raise
        except SigningKeyError as error:
            warnings.warn(HwsignerWarning(error.message, error.hint), stacklevel=2)
        yield _listed_token(found, place, objects)


def _present_tokens(uri: KeyURI) -> list[FoundToken]:
    """Return the tokens that a URI names. A module that can't be used is a warning, if there are others."""
    paths = listed_paths(uri)
    found: list[FoundToken] = []
    errors: dict[str, SigningKeyError] = {}
    for path in paths:
        within = uri.with_query("module-path", path)
        try:
            with quiet():
                module = load_module(path)
                present = module.matching_tokens(uri)
            found += [FoundToken(module, info, uri if names_module(uri) else within) for info in present]
        except SigningKeyError as error:
            if len(paths) == 1:
                raise
            errors[path] = error
    # A module that is not configured is reported only if no other module has what is looked for.
    unmissed = set(unconfigured_paths()) if found and errors else set()
    for path, failed in errors.items():
        if path not in unmissed:
            warnings.warn(HwsignerWarning(failed.message, failed.hint), stacklevel=3)
    return found


def _listed_token(found: FoundToken, place: KeyURI, objects: tuple[ListedObject, ...]) -> ListedToken:
    info = found.info
    return ListedToken(
        module=found.module.path,
        label=info.label,
        manufacturer=info.manufacturer,
        model=info.model,
        serial=info.serial,
        slot_id=info.slot,
        uri=str(place),
        wants_login=bool(info.flags & TokenFlag.LOGIN_REQUIRED),
        has_keypad=has_keypad(info),
        pin_state=listed_pin_state(info),
        objects=objects,
    )


def _objects(token: OpenToken, uri: KeyURI, place: KeyURI) -> tuple[ListedObject, ...]:
    """Return the keys and certificates on a token. A key that is hidden until a login is listed by its public key."""
    session = token.current_session()
    found = find_objects(session, uri)
    keys, certificates = found.privates, found.certificates
    names, publics = count_names([*keys, *certificates]), public_keys_of(session, keys)
    listed = [
        _listed_key(key, object_uri(key, place, uri, names), public)._replace(notes=_notes(session, key))
        for key, public in zip(keys, publics, strict=True)
    ]
    if token.can_log_in or token.wants_login:
        shown = {key.id for key in keys}
        hidden = [key for key in found.publics if key.id not in shown]
        ids = Counter(key.id for key in hidden)
        for key in hidden:
            # The label of the private key may be another one.
            known = key._replace(label=b"") if key.id and ids[key.id] == 1 else key
            name = object_uri(known, place, uri, Counter())
            listed.append(_listed_key(key, name, key.public_key)._replace(is_hidden=True))
    for one in certificates:
        name, public = object_uri(one, place, uri, names), one.public_key
        more = ListedObject("certificate", _text(one.label), one.id, name, public_key=public, certificate=one.der)
        listed.append(more)
    return tuple(listed)


def _listed_key(key: KeyObject, uri: str, public_key: bytes | None) -> ListedObject:
    return ListedObject(
        kind="key",
        label=_text(key.label),
        id=key.id,
        uri=uri,
        algorithm=key_kind(key.key_type),
        public_key=public_key,
        pin_for_each_signature=key.always_authenticate,
    )


def _notes(session: PKCS11Session, private: KeyObject) -> tuple[str, ...]:
    is_extractable = any(session.read(private.handle, (Attribute.EXTRACTABLE,)).get(Attribute.EXTRACTABLE, b""))
    return ("can be copied",) if is_extractable else ()


def _text(label: bytes) -> str:
    return label.decode("utf-8", "backslashreplace")
