"""The certificates beside a key: in its token, in files with similar names, or in the TPM."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hwsigner._identity.certificate import Certificate, is_attestation, load_readable
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.errors import CertificateError, SigningKeyError
from hwsigner.key import FoundCertificate, find_certificates
from hwsigner.key.listing import list_tokens

# What may follow the name of a key file, or replace its suffix, in the name of its certificate's file.
_SUFFIXES = (".crt", ".chain.crt", ".cer", ".pem")


def certificates_of_key(
    uri: str | KeyURI, public_key: bytes | None, *, allow_modules: bool = False
) -> list[Certificate]:
    """Return the certificates found beside a key, or nothing if none can be its own. No PIN is sent for them.

    They are those of the key's token, of the file with the key's name or a similar one, or of the TPM's NV indices. The
    public key is a DER SubjectPublicKeyInfo; None if the token hides it. `allow_modules` is as in
    `hwsigner.key.open_key`.
    """
    uri = KeyURI.of(uri).resolved()
    if uri.backend.shares_store:
        named, others = _readable(uri, allow_modules), _readable(uri.token, allow_modules)
        if _has_own(named, public_key):  # Its other certificates have other names.
            others = [one for one in others if one.public_key() != public_key]
        return [*named, *others] if named or _has_own(others, public_key) else []
    found = []
    if "path" in uri.path:
        file = os.path.realpath(uri.file)
        stems = file, os.path.splitext(file)[0]
        files = dict.fromkeys([file, *(stem + suffix for suffix in _SUFFIXES for stem in stems)])
        uris = [KeyURI("file", {"path": os.fsencode(one)}) for one in files if os.path.isfile(one)]
        found = [certificate for one in uris for certificate in _readable(one, allow_modules)]
    if uri.scheme == "tpm2" and not _has_own(found, public_key):
        found += _in_tpm(uri, allow_modules)
    return found if _has_own(found, public_key) else []


def _has_own(found: Sequence[Certificate], public_key: bytes | None) -> bool:
    return any(one.public_key() == public_key for one in found)


def _readable(uri: KeyURI, allow_modules: bool) -> list[Certificate]:
    """Return the certificates at a place, but for those that a token made to attest its keys."""
    try:
        found = load_readable(find_certificates(uri, PinSource().without_pin(), allow_modules=allow_modules))[0]
    except (CertificateError, SigningKeyError):
        return []
    return [one for one in found if not is_attestation(one.x509)]


def _in_tpm(uri: KeyURI, allow_modules: bool) -> list[Certificate]:
    """Return the certificates in the TPM's NV indices. A key file can be shown without its TPM."""
    query = {name: value for name, value in uri.query.items() if name == "tcti"}
    try:
        (tpm,) = list_tokens(KeyURI("tpm2", {}, query), allow_modules=allow_modules)
    except SigningKeyError:
        return []
    return load_readable([FoundCertificate(one.certificate, one.uri) for one in tpm.objects if one.certificate])[0]
