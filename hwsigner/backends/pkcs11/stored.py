"""A key and the objects that belong to it on its token, to be named and deleted."""

from __future__ import annotations

from typing import NamedTuple

from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, PKCS11Session
from hwsigner.backends.pkcs11.objects import CertificateObject, KeyObject, find_objects
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.backends.pkcs11.writing import WritingSession
from hwsigner.errors import SigningKeyError

_KINDS = {
    ObjectClass.PRIVATE_KEY: "private key",
    ObjectClass.PUBLIC_KEY: "public key",
    ObjectClass.CERTIFICATE: "certificate",
}


class Stored(NamedTuple):
    """An object on a token."""

    kind: int  # CKA_CLASS.
    object: KeyObject | CertificateObject

    def __str__(self) -> str:
        names = [f"label {self.object.label.decode(errors='backslashreplace')!r}"] if self.object.label else []
        names += [f"id {self.object.id.hex()}"] if self.object.id else []
        return f"{_KINDS[self.kind]} ({', '.join(names) or 'without label and id'})"


def find_stored(session: PKCS11Session, name: KeyURI) -> list[Stored]:
    """Return the private keys, certificates and public keys, in this order, that a URI names by `object` and `id`."""
    found = find_objects(session, name)
    return [
        *(Stored(ObjectClass.PRIVATE_KEY, one) for one in found.privates),
        *(Stored(ObjectClass.CERTIFICATE, one) for one in found.certificates),
        *(Stored(ObjectClass.PUBLIC_KEY, one) for one in found.publics),
    ]


def stored_with(session: PKCS11Session, key: KeyObject) -> list[Stored]:
    """Return a key with its certificates and its public key object: what has its CKA_ID, or its label if it has no ID.

    If another private key has that too, only the objects with the key's own public key are returned.
    """
    if not key.id and not key.label:
        return [Stored(ObjectClass.PRIVATE_KEY, key)]
    name = KeyURI("pkcs11", {"id": key.id} if key.id else {"object": key.label})
    there = [one for one in find_stored(session, name) if one.object.id == key.id]
    rivals = [one for one in there if one.kind == ObjectClass.PRIVATE_KEY and one.object.handle != key.handle]
    if rivals:
        own = public_keys_of(session, [key])[0]
        there = [one for one in there if one.object.handle == key.handle or (own and one.object.public_key == own)]
    return [one for one in there if one not in rivals]


def destroy(token: OpenToken, session: WritingSession, doomed: Stored) -> None:
    """Delete an object; raise a SigningKeyError if the token refused, or reported success and keeps it."""
    names = {Attribute.ID: doomed.object.id, Attribute.LABEL: doomed.object.label}
    template = {name: value for name, value in names.items() if value}
    try:
        before = len(session.find(doomed.kind, template))
        session.destroy(doomed.object.handle)
        after = len(session.find(doomed.kind, template))
    except PKCS11Error as error:
        raise token.failure(f"could not delete the {doomed}", error) from error
    if after >= before:
        message = f"{token.name} reports that the {doomed} is deleted, and keeps it"
        raise SigningKeyError(message, "Delete it with the token's own tool")
