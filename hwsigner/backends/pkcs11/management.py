"""A key's life on a PKCS #11 token: making it, describing it, and deleting it with what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import check_uri, installing, keygen, piv
from hwsigner.backends.pkcs11.der import certificate_public_key
from hwsigner.backends.pkcs11.description import describe
from hwsigner.backends.pkcs11.functions import ObjectClass
from hwsigner.backends.pkcs11.objects import find_objects
from hwsigner.backends.pkcs11.search import choose_token, find_any_key, find_named_key, only_token, using
from hwsigner.backends.pkcs11.stored import Stored, destroy, stored_with
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.backends.pkcs11.unfinished import MakingMark
from hwsigner.backends.pkcs11.writing import WritingSession, writing
from hwsigner.errors import KeyNotFoundError, UsageError
from hwsigner.key import FoundCertificate
from hwsigner.key.management import Confirm, InstalledCertificate, KeyDescription, KeyRequest, inapplicable


def generate_key(uri: KeyURI, pins: PinSource, request: KeyRequest) -> KeyDescription:
    """Make a key pair on the one token that a URI names; see `hwsigner.key.management.generate_key`.

    The URI's `object` is the label. Its `id` is the CKA_ID; without one, that is the SHA-1 of the public key.
    """
    _require_private(uri)
    found = only_token(uri)
    if piv.is_piv(found.info):
        return piv.generate_key(found, uri, pins, request)
    return keygen.generate_key(found, uri, pins, request)


def describe_key(uri: KeyURI, pins: PinSource) -> KeyDescription:
    """Return what a token says of a key; see `hwsigner.key.management.describe_key`."""
    check_uri(uri)
    found = choose_token(uri, None)
    if piv.is_piv(found.info):
        return piv.describe_key(found, uri)
    with using(found) as token:
        token.forget_refusal()
        key = find_any_key(token, uri, pins)
        if MakingMark(token, uri.path.get("object") or key.label).is_part(token.current_session(), key):
            problem = f"{Stored(ObjectClass.PRIVATE_KEY, key)} on {token.name} is not whole: its making was cut short"
            raise KeyNotFoundError(problem, "Run the same hwsigner enroll or keygen again, or hwsigner delete")
        return describe(token, key, uri)


def install_certificate(
    uri: KeyURI, pins: PinSource, chain: Sequence[FoundCertificate], *, nv_index: str = ""
) -> InstalledCertificate:
    """Put a chain beside its key on a token; see `hwsigner.key.management.install_certificate`."""
    _require_private(uri)
    if nv_index:
        raise inapplicable("nv-index", "keys on a PKCS #11 token")
    found = choose_token(uri, certificate_public_key(chain[0].der))
    if piv.is_piv(found.info):
        return piv.install_certificate(found, uri, pins, chain)
    return installing.install_certificate(found, uri, pins, chain)


def delete_key(uri: KeyURI, pins: PinSource, confirm: Confirm) -> tuple[str, ...]:
    """Delete a key, its certificates and its public key object; see `hwsigner.key.management.delete_key`.

    The public key object goes last. If hwsigner is killed before that, the same URI deletes what is left.
    """
    _require_private(uri)
    found = choose_token(uri, None)
    if piv.is_piv(found.info):
        piv.refuse_deletion(found, uri)
    with writing(found, uri, pins, "could not delete the key") as (token, session):
        doomed = _doomed(token, session, uri)
        lines = tuple(f"{one} on {token.name}" for one in doomed)
        confirm(lines)
        for one in doomed:
            destroy(token, session, one)
        MakingMark(token, doomed[0].object.label).remove()
        return lines


def _require_private(uri: KeyURI) -> None:
    check_uri(uri)
    if uri.path.get("type", b"private") != b"private":
        raise UsageError(f"{uri.name} does not name a private key", "Leave type= out of the key URI")


def _doomed(token: OpenToken, session: WritingSession, uri: KeyURI) -> list[Stored]:
    """Return what is deleted with the key that a URI names, or what is left of a key that was not deleted wholly."""
    found = find_objects(session, uri)
    is_named = bool(uri.path.get("object") or uri.path.get("id"))
    if is_named and not found.privates and len(found.publics) == 1:
        return stored_with(session, found.publics[0])
    return stored_with(session, find_named_key(token, uri))


if TYPE_CHECKING:
    from hwsigner.backends.pkcs11 import management
    from hwsigner.key.management import ManagesKeys

    _: ManagesKeys = management
