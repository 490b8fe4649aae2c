"""Putting a certificate chain beside its key on a token."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.der import certificate_names, certificate_public_key, common_name, key_id
from hwsigner.backends.pkcs11.errors import PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, PKCS11Session, from_number
from hwsigner.backends.pkcs11.module import token_uri
from hwsigner.backends.pkcs11.objects import CertificateObject, KeyObject, Objects, count_names, object_uri
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.backends.pkcs11.search import FoundToken, find_named_key
from hwsigner.backends.pkcs11.stored import Stored, destroy
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.backends.pkcs11.writing import FALSE, TRUE, Template, WritingSession, writing
from hwsigner.errors import HwsignerWarning, KeyMismatchError, SigningKeyError
from hwsigner.key import FoundCertificate
from hwsigner.key.management import InstalledCertificate

_X509 = 0  # CKC_X_509


def install_certificate(
    found: FoundToken, uri: KeyURI, pins: PinSource, chain: Sequence[FoundCertificate]
) -> InstalledCertificate:
    """Store the leaf with the key's id and label, and the intermediates that the token lacks; delete the former leaf.

    The former leaf is kept until the others are stored. After a failure, all is as before. If hwsigner is killed
    meanwhile, both leaves may be there; installing again deletes the former one.
    """
    leaf, *intermediates = [one.der for one in chain]
    public_key = certificate_public_key(leaf)
    with writing(found, uri, pins, "could not store the certificate") as (token, session):
        key = find_named_key(token, uri)
        _require_match(token, session, key, public_key)
        there = Objects(session, {}).certificates
        former = [one for one in there if _is_certificate_of(one, key, public_key)]
        kept = next((one for one in former if one.der == leaf and one.label == key.label), None)
        stored = {one.der for one in there}
        with ExitStack() as undo:
            for der in intermediates:
                if der not in stored:
                    issuer_key = certificate_public_key(der)
                    issuer_id = key_id(issuer_key) if issuer_key else b""
                    _create(token, session, CertificateObject(der, issuer_id, common_name(der), 0), undo)
            new = kept or CertificateObject(leaf, key.id, key.label, 0)
            if kept is None:
                _create(token, session, new, undo)
            for one in former:
                if one is not kept:
                    destroy(token, session, Stored(ObjectClass.CERTIFICATE, one))
                    undo.callback(_restore, token, session, one)
            undo.pop_all()
        names = count_names(Objects(session, {}).certificates)
        return InstalledCertificate(object_uri(new, token_uri(token.info, uri), uri, names))


def _require_match(token: OpenToken, session: PKCS11Session, key: KeyObject, public_key: bytes | None) -> None:
    own = public_keys_of(session, [key])[0]
    if own is not None and own != public_key:
        message = f"the certificate is for another key than {key.label.decode(errors='backslashreplace')!r}"
        raise KeyMismatchError(f"{message} of {token.name}", "Name the certificate's own key")


def _is_certificate_of(one: CertificateObject, key: KeyObject, public_key: bytes | None) -> bool:
    """Return whether a certificate belongs to a key: by its id, by its label if the key has no id, and by its key."""
    has_its_name = one.id == key.id and bool(key.id or one.label == key.label)
    return has_its_name and one.public_key == public_key


def _create(token: OpenToken, session: WritingSession, new: CertificateObject, undo: ExitStack) -> None:
    """Store a certificate, and read it back; raise a SigningKeyError if the token has stored something else."""
    handle = session.create(certificate_template(new))
    undo.callback(_discard, token, session, new._replace(handle=handle))
    if session.read(handle, (Attribute.VALUE,)).get(Attribute.VALUE) != new.der:
        message = f"{token.name} has not stored the certificate that it was given"
        raise SigningKeyError(message, "Put the certificate into a file, and name that with --certificate")


def _discard(token: OpenToken, session: WritingSession, new: CertificateObject) -> None:
    """Delete a new certificate, after a failure."""
    try:
        session.destroy(new.handle)
    except PKCS11Error as error:
        left = Stored(ObjectClass.CERTIFICATE, new)
        message = f"{token.name} could not delete the new {left} again: {error}"
        warnings.warn(HwsignerWarning(message, "Install the certificate again"), stacklevel=2)


def _restore(token: OpenToken, session: WritingSession, former: CertificateObject) -> None:
    """Write a former certificate back, after a failure."""
    try:
        session.create(certificate_template(former))
    except PKCS11Error as error:
        gone = Stored(ObjectClass.CERTIFICATE, former)
        message = f"{token.name} has lost the former {gone}: {error}"
        warnings.warn(HwsignerWarning(message, "Install the certificate again"), stacklevel=2)


def certificate_template(new: CertificateObject) -> Template:
    """Return the attributes with which a certificate is stored."""
    serial_number, issuer, subject = certificate_names(new.der)
    return {
        Attribute.CLASS: from_number(ObjectClass.CERTIFICATE),
        Attribute.CERTIFICATE_TYPE: from_number(_X509),
        Attribute.TOKEN: TRUE,
        Attribute.PRIVATE: FALSE,
        Attribute.LABEL: new.label,
        Attribute.ID: new.id,
        Attribute.SUBJECT: subject,
        Attribute.ISSUER: issuer,
        Attribute.SERIAL_NUMBER: serial_number,
        Attribute.VALUE: new.der,
    }
