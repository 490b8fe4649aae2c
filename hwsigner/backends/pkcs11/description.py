"""What a token says of a key."""

from __future__ import annotations

from typing import Any

from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, PKCS11Session, TokenFlag
from hwsigner.backends.pkcs11.module import token_uri
from hwsigner.backends.pkcs11.objects import KeyObject, count_names, object_uri, read_keys
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.backends.pkcs11.pins import has_keypad
from hwsigner.backends.pkcs11.stored import stored_with
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.key.management import KeyDescription

# By the names of properties.
_FLAGS = {
    "sensitive": Attribute.SENSITIVE,
    "extractable": Attribute.EXTRACTABLE,
    "alwaysSensitive": Attribute.ALWAYS_SENSITIVE,
    "neverExtractable": Attribute.NEVER_EXTRACTABLE,
    "local": Attribute.LOCAL,
    "modifiable": Attribute.MODIFIABLE,
    "private": Attribute.PRIVATE,
    "alwaysAuthenticate": Attribute.ALWAYS_AUTHENTICATE,
}
_CLAIM = "What a token says of its keys is a claim: only an attestation proves it"


def describe(token: OpenToken, key: KeyObject, uri: KeyURI) -> KeyDescription:
    """Return what an open token says of a private key, which was found by a URI."""
    session = token.current_session()
    flags = _read_flags(session, key.handle)
    is_behind_pin = bool(token.info.flags & TokenFlag.LOGIN_REQUIRED) and flags["private"] is not False
    objects = stored_with(session, key)
    names = count_names(read_keys(session, ObjectClass.PRIVATE_KEY, {}))
    place = token_uri(token.info, uri)
    source = {name: value for name, value in uri.query.items() if name == "pin-source"}
    properties: dict[str, Any] = {
        "token": token.info.label,
        "serial": token.info.serial,
        "module": token.module.path,
        "label": key.label.decode(errors="backslashreplace"),
        "id": key.id.hex(),
        "pin": is_behind_pin,
        **flags,
        "objects": [str(one) for one in objects],
    }
    notes = [_CLAIM] if flags["local"] is not False else [_CLAIM, "The token says that the key was not made in it"]
    return KeyDescription(
        uri=object_uri(key, place.changed(query={**place.query, **source}), uri, names),
        place=token.name,
        public_key=public_keys_of(session, [key])[0],
        guards=(_pin_guard(token, flags, is_behind_pin=is_behind_pin), *_copy_guards(flags)),
        properties=properties,
        notes=tuple(notes),
    )


def _read_flags(session: PKCS11Session, private: int) -> dict[str, bool | None]:
    """Return the flags of a private key by the names of properties; None for those that the token does not show."""
    values = session.read(private, _FLAGS.values())
    return {name: any(values[number]) if values.get(number) else None for name, number in _FLAGS.items()}


def _pin_guard(token: OpenToken, flags: dict[str, bool | None], *, is_behind_pin: bool) -> str:
    pin = f"the PIN of {token.name}" + (", typed at its keypad" if has_keypad(token.info) else "")
    if flags["alwaysAuthenticate"]:
        return f"Each signature needs {pin}"
    return f"Signatures need a login with {pin}" if is_behind_pin else "Signatures need no PIN"


def _copy_guards(flags: dict[str, bool | None]) -> list[str]:
    if flags["extractable"] is False:  # That is enough: CKA_SENSITIVE keeps other keys from being read in plain text.
        always = ", and never could be" if flags["neverExtractable"] and flags["alwaysSensitive"] else ""
        return [f"The token says that the key can't be read or copied out of it{always}"]
    if flags["extractable"] is None:
        return ["The token does not say whether the key can be copied out of it"]
    return ["The token says that the key can be copied out of it"]
