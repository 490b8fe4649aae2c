"""Searching a token, and reading its objects' attributes, whatever one of them fails with."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pkcs11 import Attribute, ObjectClass, PKCS11Error
from pkcs11._pkcs11 import SearchIter  # type: ignore[attr-defined]
from pkcs11.types import Session

from hwsigner.uri import KeyURI

# What python-pkcs11 raises for an attribute: the module's answer, or a value that is not of the attribute's type.
_UNREADABLE = (PKCS11Error, ValueError, IndexError, struct.error)
# OpenSC's pkcs11-tool writes the id 01 02 ff as %0102ff.
_HALF_ENCODED = re.compile(rb"(.)((?:[0-9a-f]{2})+)", re.DOTALL)
_NAMES = {"object": Attribute.LABEL, "id": Attribute.ID}


def search(session: Session, kind: ObjectClass, template: Mapping[Attribute, Any]) -> list[Any]:
    """Return the objects of a class that have all the attributes, less those that can't be read.

    Raises:
        PKCS11Error: the token can't be searched.
    """
    wanted = {Attribute.CLASS: kind, **template}
    try:
        return list(session.get_objects(wanted))
    except _UNREADABLE:
        # python-pkcs11 reads the objects as they are found, and ends the search at the first that it can't read.
        return _search_one_by_one(session, wanted)


def search_named(session: Session, kind: ObjectClass, uri: KeyURI) -> list[Any]:
    """Return the objects of a class that a URI names by `object` and `id`; an empty one means that there is none."""
    found = _search_exactly(session, kind, uri)
    half_encoded = _HALF_ENCODED.fullmatch(uri.path.get("id", b""))
    if not found and half_encoded:
        key_id = half_encoded[1] + bytes.fromhex(half_encoded[2].decode())
        found = _search_exactly(session, kind, replace(uri, path={**uri.path, "id": key_id}))
    return found


def attributes(found: Any, *names: Attribute) -> dict[Attribute, Any]:
    """Return those of an object's attributes that the token shows."""
    try:
        return dict(found.get_attributes(names))
    except _UNREADABLE:  # Some modules fail as a whole over one attribute that they don't have.
        values = {}
        for name in names:
            with suppress(*_UNREADABLE):
                values[name] = found[name]
        return values


def _search_exactly(session: Session, kind: ObjectClass, uri: KeyURI) -> list[Any]:
    template = {attribute: uri.path[name] for name, attribute in _NAMES.items() if uri.path.get(name)}
    found = search(session, kind, template)
    empty = [attribute for name, attribute in _NAMES.items() if uri.path.get(name) == b""]
    # A template with an empty value would miss the objects without that attribute.
    return [one for one in found if not any(attributes(one, *empty).values())] if empty else found


def _search_one_by_one(session: Session, wanted: Mapping[Attribute, Any]) -> list[Any]:
    found: list[Any] = []
    with SearchIter(session, wanted, 1) as batches:
        for batch in batches:
            with suppress(*_UNREADABLE):
                found += batch
    return found
