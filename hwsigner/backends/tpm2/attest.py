"""The TPM's side of an attestation: who the chip is, and its signature that it holds a key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPMA_OBJECT, TPMT_SIG_SCHEME

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2 import examine
from hwsigner.backends.tpm2.auth import AuthAttempt, Guarded, key_auth
from hwsigner.backends.tpm2.connection import connected
from hwsigner.backends.tpm2.endorsement import Endorsement
from hwsigner.backends.tpm2.objects import LoadableKey, ParentAuth
from hwsigner.backends.tpm2.pcrs import PCRSelection
from hwsigner.backends.tpm2.public_area import PublicArea, read_public_area
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.backends.tpm2.uris import QUERY, named_key, session_settings, tcti_of
from hwsigner.errors import UnsupportedKeyError

_Values = dict[str, bytes | tuple[bytes, ...]]
_OWN_SCHEME = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)


def formats() -> tuple[str, ...]:
    """Return the formats of the documents about keys of TPMs."""
    return ("tpm2",)


def make_statement(uri: KeyURI, pins: PinSource, *, certificates: tuple[bytes, ...]) -> tuple[str, _Values]:
    """Return the format and the members of a statement about a key.

    The key's own auth value is not needed; a wrong one of the endorsement hierarchy was sent once. `certificates` are
    those that the TPM does not hold.
    """
    auth = ParentAuth(uri, pins)
    endorsement = _endorsement(uri, auth)
    subject, file, key = named_key(uri, auth)

    def state(tpm: TPM) -> _Values:
        _check_certifiable(tpm, subject, key)
        with key.loaded(tpm) as handle:
            key_public = _public(tpm, handle)
        with endorsement.attestation_key(tpm) as ak:
            ak_public = _public(tpm, ak)
        with endorsement.endorsement_key(tpm) as (ek, certificate):
            ek_public = _public(tpm, ek)
        own = (certificate,) if certificate else ()
        publics = {"keyPublic": key_public, "akPublic": ak_public, "ekPublic": ek_public}
        return {**publics, "ekCertificates": tuple(dict.fromkeys((*own, *certificates)))}

    with connected(tcti_of(uri), key) as connection:
        return "tpm2", connection.run(state, subject, session_settings(uri, file.parent if file else None))


def endorsement_key(uri: KeyURI, pins: PinSource) -> bytes:
    """Return the endorsement key of a TPM as DER SubjectPublicKeyInfo."""
    uri.require_known(frozenset({"handle", "path"}), QUERY)
    endorsement = _endorsement(uri, ParentAuth(uri, pins))

    def read(tpm: TPM) -> bytes:
        with endorsement.endorsement_key(tpm) as (ek, _):
            outer = tpm.esys.read_public(ek)[0]
            return bytes(outer.publicArea.to_der())

    with connected(tcti_of(uri), object()) as connection:
        return connection.run(read, "endorsement key", session_settings(uri))


def answer_challenge(uri: KeyURI, pins: PinSource, challenge: Mapping[str, bytes], *, pcrs: str) -> _Values:
    """Return the members of the answer to a challenge.

    A challenge for another chip is an AttestationError. A wrong auth value was sent once.
    """
    selection = PCRSelection(pcrs) if pcrs else None
    auth = ParentAuth(uri, pins)
    endorsement = _endorsement(uri, auth)
    named = named_key(uri, auth)
    subject, file, key = named
    settings = session_settings(uri, file.parent if file else None)

    def open_secret(tpm: TPM) -> bytes:
        return endorsement.open_challenge(tpm, challenge["credentialBlob"], challenge["encryptedSecret"])

    def examine_key(tpm: TPM) -> tuple[PublicArea, Guarded, bool]:
        _check_certifiable(tpm, subject, key)
        return examine(uri, pins, named, tpm)

    with connected(tcti_of(uri), key) as connection:
        secret = connection.run(open_secret, subject, settings)
        qualifying = hashlib.sha256(challenge["message"] + secret).digest()
        _, guarded, held_back = connection.run(examine_key, subject, settings)
        wants_auth = file is not None and not file.empty_auth
        attempt = AuthAttempt(guarded, key_auth(uri, pins, guarded, wants_auth=wants_auth, is_held_back=held_back))
        certify = partial(_certified, endorsement=endorsement, key=key, attempt=attempt, qualifying=qualifying)
        values = {"secret": secret, **connection.run(certify, subject, settings, one_process=attempt.is_guess)}
        if selection:
            quote = partial(_quoted, endorsement=endorsement, selection=selection, qualifying=qualifying)
            values |= connection.run(quote, subject, settings)
        return values


def _endorsement(uri: KeyURI, auth: ParentAuth) -> Endorsement:
    return Endorsement(auth, uri.text("endorsement-key") or "")


def _check_certifiable(tpm: TPM, subject: str, key: LoadableKey) -> None:
    """Raise an UnsupportedKeyError if the TPM does not certify a key with this public area."""
    public = key.public(tpm)
    if public.objectAttributes & TPMA_OBJECT.ADMINWITHPOLICY:
        raise UnsupportedKeyError(
            f"key {subject} has adminWithPolicy, so the TPM certifies it only with a policy for that",
            "Make a key with hwsigner keygen",
        )
    read_public_area(public, subject)


def _public(tpm: TPM, handle: ESYS_TR) -> bytes:
    """Return an object's TPMT_PUBLIC (TPM 2.0 Library, part 2, 12.2.4)."""
    outer = tpm.esys.read_public(handle)[0]  # What is inside does not outlive it.
    return bytes(outer.publicArea.marshal())


def _certified(
    tpm: TPM, endorsement: Endorsement, key: LoadableKey, attempt: AuthAttempt, qualifying: bytes
) -> _Values:
    """Certify a key. That is for its administrator: it takes the key's auth value, even if signatures need a policy."""
    with attempt.sending(tpm), key.loaded(tpm) as handle:
        session = tpm.authorize(handle, attempt.auth.value)
        tpm.is_at_risk = bool(attempt.auth.value) or attempt.is_guess
        with endorsement.attestation_key(tpm) as ak:
            info, signature = tpm.esys.certify(handle, ak, qualifying, _OWN_SCHEME, session1=session)
    return {"certifyInfo": bytes(info), "certifySignature": signature.marshal()}


def _quoted(tpm: TPM, endorsement: Endorsement, selection: PCRSelection, qualifying: bytes) -> _Values:
    """Quote PCRs, with their values."""
    values = tuple(selection.values(tpm))
    with endorsement.attestation_key(tpm) as ak:
        info, signature = tpm.esys.quote(ak, selection.structure(), qualifying, _OWN_SCHEME)
    return {"quoteInfo": bytes(info), "quoteSignature": signature.marshal(), "pcrValues": values}


if TYPE_CHECKING:
    from hwsigner.backends.tpm2 import attest
    from hwsigner.key.management import ProvesKeys, ShowsEndorsementKey

    class _Prover(ProvesKeys, ShowsEndorsementKey, Protocol): ...

    _: _Prover = attest
