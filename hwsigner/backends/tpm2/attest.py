"""The TPM's side of an attestation: who the chip is, and its signature that it holds a key.

The endorsement key (EK) is made of the chip's seed by one of TCG's templates, or found at a persistent handle. The
attestation key (AK) is made of the same seed, so it need not be kept, and is the same each time. Both need the auth
value of the endorsement hierarchy, where that is set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import NamedTuple, TypeVar

from asn1crypto.x509 import Certificate
from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPML_PCR_SELECTION,
    TPMT_SIG_SCHEME,
    TSS2_Exception,
)
from tpm2_pytss.utils import NVReadEK, create_ek_template

from hwsigner.backends.pem import first_element
from hwsigner.backends.tpm2.auth import AuthAttempt, Guarded, ParentAuth, is_held_back, key_auth
from hwsigner.backends.tpm2.connection import connect
from hwsigner.backends.tpm2.errors import INTEGRITY, VALUE, code
from hwsigner.backends.tpm2.objects import KeyObject
from hwsigner.backends.tpm2.policy_commands import PCR
from hwsigner.backends.tpm2.public_area import PublicArea, read_public_area
from hwsigner.backends.tpm2.tcti import tcti_of
from hwsigner.backends.tpm2.tpm import TPM, SessionSettings
from hwsigner.backends.tpm2.uris import QUERY, named_key, session_settings
from hwsigner.errors import AttestationError, SigningKeyError, UnsupportedKeyError, UsageError
from hwsigner.pins import PinSource
from hwsigner.uri import KeyURI

FORMATS = ("tpm2",)
_T = TypeVar("_T")
_Structure = TypeVar("_Structure", TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET)
_Values = dict[str, bytes | tuple[bytes, ...]]

# Of the templates of TCG EK Credential Profile (B.3, B.4), those that are quickest to make come first.
_TEMPLATES = ("EK-ECC256", "EK-HIGH-ECC256", "EK-HIGH-ECC384", "EK-RSA2048", "EK-HIGH-RSA2048", "EK-HIGH-RSA3072")
_WITHOUT_CERTIFICATE = "EK-RSA2048"
# Persistent handles of endorsement keys (TCG PC Client Platform TPM Profile, 7.8).
_FIRST_EK, _LAST_EK, _LISTED = 0x81010000, 0x8101FFFF, 100
_AK_ATTRIBUTES = TPMA_OBJECT(
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.SIGN_ENCRYPT
)
_AK_LABEL = b"hwsigner attestation key"
_COORDINATE_BYTES = 32
_ENDORSEMENT = Guarded("TPM endorsement auth value", "endorsement", "endorsement", False, "endorsement-pin-source")
# The answers to a secret for another chip: INTEGRITY, VALUE, SIZE, ECC_POINT; libtpms answers FAILURE for an RSA key.
_NOT_OPENED = (INTEGRITY, VALUE, 0x95, 0xA7, 0x101)
_OWN_SCHEME = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)


class _NamedKey(NamedTuple):
    """The key to attest.

    Attributes:
        subject: the key, as messages name it.
        key: the key.
        public: its TPMT_PUBLIC.
        area: what that says.
    """

    subject: str
    key: KeyObject
    public: bytes
    area: PublicArea


def make_statement(uri: KeyURI, pins: PinSource, *, certificates: tuple[bytes, ...]) -> tuple[str, _Values]:
    """Return the format and the members of a statement about a key.

    Args:
        uri: the key's URI, as for `open_key`; the query's `endorsement-pin-source` too.
        pins: where auth values come from. The key's own is not needed.
        certificates: certificates that the TPM does not hold.

    Raises:
        UnsupportedKeyError: the TPM does not certify this key.
        SigningKeyError: as for `open_key`, or the TPM refused.
        PinError: the endorsement hierarchy's auth value is missing or wrong; it was sent once.
    """
    auth = ParentAuth(uri, pins)
    subject, file, key = named_key(uri, auth)

    def state(tpm: TPM) -> _Values:
        named = _examine(tpm, subject, key)
        with _attestation_key(tpm, auth) as ak:
            ak_public = _public(tpm, ak)
        with _endorsement_key(tpm, auth) as (ek, certificate):
            found = tuple(dict.fromkeys([*([certificate] if certificate else ()), *certificates]))
            return {
                "keyPublic": named.public,
                "akPublic": ak_public,
                "ekPublic": _public(tpm, ek),
                "ekCertificates": found,
            }

    return "tpm2", _run(uri, key, state, subject, session_settings(uri, file.parent if file else None))


def endorsement_key(uri: KeyURI, pins: PinSource) -> bytes:
    """Return the endorsement key of a TPM as DER SubjectPublicKeyInfo.

    Args:
        uri: any `tpm2:` URI.
        pins: where the auth value of the endorsement hierarchy comes from.

    Raises:
        BackendUnavailableError: the TPM can't be reached.
        PinError: as `make_statement`.
    """
    uri.require_known(frozenset({"handle", "path"}), QUERY)

    def read(tpm: TPM) -> bytes:
        with _endorsement_key(tpm, ParentAuth(uri, pins)) as (ek, _):
            public = tpm.esys.read_public(ek)[0]
            der: bytes = public.publicArea.to_der()
            return der

    return _run(uri, object(), read, "endorsement key", session_settings(uri))


def answer_challenge(uri: KeyURI, pins: PinSource, challenge: Mapping[str, bytes], *, pcrs: str) -> _Values:
    """Return the members of the answer to a challenge.

    Args:
        uri: the key's URI.
        pins: where auth values come from. Certifying a key needs its own.
        challenge: the challenge's members, and `message`.
        pcrs: the PCRs to quote, such as `sha256:7+sha1:0,1`; empty for none.

    Raises:
        UsageError: `pcrs` are malformed.
        AttestationError: the challenge is for another chip.
        SigningKeyError: as `make_statement`.
        PinError: an auth value is missing, wrong or locked. A wrong one was sent once.
    """
    selection = _selection(pcrs) if pcrs else None
    auth = ParentAuth(uri, pins)
    subject, file, key = named_key(uri, auth)
    settings = session_settings(uri, file.parent if file else None)
    user = object()
    connection = connect(tcti_of(uri), user)

    def examine(tpm: TPM) -> tuple[Guarded, bool]:
        area = _examine(tpm, subject, key).area
        path = uri.file if file and file.empty_auth else ""
        guarded = Guarded("TPM auth value", subject, area.name, area.counts, "pin-source", path)
        return guarded, not pins.allow_final_try and is_held_back(tpm, guarded)

    try:
        secret = connection.run(partial(_opened, auth=auth, challenge=challenge), subject, settings)
        qualifying = hashlib.sha256(challenge["message"] + secret).digest()
        guarded, held_back = connection.run(examine, subject, settings)
        wants_auth = file is not None and not file.empty_auth
        attempt = AuthAttempt(guarded, key_auth(uri, pins, guarded, wants_auth=wants_auth, is_held_back=held_back))
        certify = partial(_certified, auth=auth, key=key, attempt=attempt, qualifying=qualifying)
        certified = connection.run(certify, subject, settings, one_process=attempt.is_guess)
        quote = partial(_quoted, auth=auth, selection=selection, qualifying=qualifying)
        quoted = connection.run(quote, subject, settings) if selection else {}
        return {"secret": secret, **certified, **quoted}
    finally:
        connection.release(user)
        connection.release(key)


def _run(uri: KeyURI, user: object, work: Callable[[TPM], _T], subject: str, settings: SessionSettings) -> _T:
    connection = connect(tcti_of(uri), user)
    try:
        return connection.run(work, subject, settings)
    finally:
        connection.release(user)


def _examine(tpm: TPM, subject: str, key: KeyObject) -> _NamedKey:
    """Read a key's public area.

    Raises:
        UnsupportedKeyError: the TPM does not certify such a key.
    """
    area = read_public_area(key.public(tpm), subject)
    with key.loaded(tpm) as handle:
        outer = tpm.esys.read_public(handle)[0]
        if outer.publicArea.objectAttributes & TPMA_OBJECT.ADMINWITHPOLICY:
            raise UnsupportedKeyError(
                f"key {subject} has adminWithPolicy, so the TPM certifies it only with a policy for that",
                "Make a key with hwsigner keygen",
            )
        return _NamedKey(subject, key, outer.publicArea.marshal(), area)


def _public(tpm: TPM, handle: ESYS_TR) -> bytes:
    """Return an object's TPMT_PUBLIC."""
    outer = tpm.esys.read_public(handle)[0]
    data: bytes = outer.publicArea.marshal()
    return data


def _attestation_key(tpm: TPM, auth: ParentAuth) -> AbstractContextManager[ESYS_TR]:
    """Make the attestation key, which signs only what the TPM makes, for a `with` statement."""
    template = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=_AK_ATTRIBUTES)
    template.publicArea.unique.ecc.x = _AK_LABEL.ljust(_COORDINATE_BYTES, b"\0")
    template.publicArea.unique.ecc.y = bytes(_COORDINATE_BYTES)
    return tpm.temporary(lambda: _primary(tpm, auth, template))


def _primary(tpm: TPM, auth: ParentAuth, template: TPM2B_PUBLIC) -> ESYS_TR:
    """Make a primary key of the endorsement hierarchy."""
    hierarchy = ESYS_TR.RH_ENDORSEMENT

    def create(session: ESYS_TR) -> ESYS_TR:
        return tpm.esys.create_primary(None, template, hierarchy, session1=session)[0]

    return auth.prove(tpm, hierarchy, _ENDORSEMENT, create)


@contextmanager
def _endorsement_key(tpm: TPM, auth: ParentAuth) -> Iterator[tuple[ESYS_TR, bytes]]:
    """Find or make the endorsement key for a `with` statement: the key, and its certificate, empty if it has none."""
    certificate, template = _ek_template(tpm)
    persistent = _persistent_ek(tpm, certificate) if certificate else None
    if persistent is not None:
        try:
            yield persistent, certificate
        finally:
            tpm.esys.tr_close(persistent)
    else:
        with tpm.temporary(lambda: _primary(tpm, auth, template)) as ek:
            yield ek, certificate


def _ek_template(tpm: TPM) -> tuple[bytes, TPM2B_PUBLIC]:
    """Return the certificate and the template of the first endorsement key that the TPM has a certificate for."""
    read = NVReadEK(tpm.esys)
    for name in (*_TEMPLATES, _WITHOUT_CERTIFICATE):
        with suppress(ValueError):  # Raised for a key of the high range that has no certificate.
            certificate, template = create_ek_template(name, read)
            if certificate:
                return first_element(certificate), template
    return b"", template


def _persistent_ek(tpm: TPM, certificate: bytes) -> ESYS_TR | None:
    """Return the persistent key of a certificate, or None."""
    wanted = Certificate.load(certificate)["tbs_certificate"]["subject_public_key_info"].dump()
    _, answer = tpm.esys.get_capability(TPM2_CAP.HANDLES, _FIRST_EK, _LISTED)
    for number in answer.data.handles:
        if number <= _LAST_EK:
            handle = tpm.esys.tr_from_tpmpublic(number)
            outer = tpm.esys.read_public(handle)[0]
            if outer.publicArea.to_der() == wanted:
                return handle
            tpm.esys.tr_close(handle)
    return None


def _opened(tpm: TPM, auth: ParentAuth, challenge: Mapping[str, bytes]) -> bytes:
    """Return the secret of a challenge, which the TPM opens if EK and AK are its own.

    Raises:
        AttestationError: they are not.
    """
    blob = _unmarshalled(TPM2B_ID_OBJECT, challenge["credentialBlob"])
    encrypted = _unmarshalled(TPM2B_ENCRYPTED_SECRET, challenge["encryptedSecret"])
    with (
        _attestation_key(tpm, auth) as ak,
        _endorsement_key(tpm, auth) as (ek, _),
        _ek_session(tpm, auth, ek) as session,
    ):
        try:
            secret = tpm.esys.activate_credential(ak, ek, blob, encrypted, session2=session)
        except TSS2_Exception as error:
            if code(error) not in _NOT_OPENED:
                raise
            raise AttestationError(
                "the TPM can't open the challenge: it is for another chip, or was changed",
                "Make the statement again on this machine, and answer the challenge to that",
            ) from error
    return bytes(secret)


@contextmanager
def _ek_session(tpm: TPM, auth: ParentAuth, ek: ESYS_TR) -> Iterator[ESYS_TR]:
    """Open the session that authorizes a use of the endorsement key.

    Those of the low range have a policy: the endorsement hierarchy's auth value. Those of the high range take their
    own, which is empty.
    """
    outer = tpm.esys.read_public(ek)[0]
    if outer.publicArea.objectAttributes & TPMA_OBJECT.USERWITHAUTH:
        yield ESYS_TR.PASSWORD
        return
    with tpm.policy_session(outer.publicArea.nameAlg) as session:
        hierarchy = ESYS_TR.RH_ENDORSEMENT

        def satisfy(proof: ESYS_TR) -> None:
            tpm.esys.policy_secret(hierarchy, session, expiration=0, session1=proof)

        auth.prove(tpm, hierarchy, _ENDORSEMENT, satisfy)
        yield session


def _certified(tpm: TPM, auth: ParentAuth, key: KeyObject, attempt: AuthAttempt, qualifying: bytes) -> _Values:
    """Certify a key. That is for its administrator: it takes the key's auth value, even if signatures need a policy."""
    with attempt.sending(tpm), key.loaded(tpm) as handle:
        session = tpm.authorize(handle, attempt.auth.value)
        tpm.is_at_risk = bool(attempt.auth.value) or attempt.is_guess
        with _attestation_key(tpm, auth) as ak:
            info, signature = tpm.esys.certify(handle, ak, qualifying, _OWN_SCHEME, session1=session)
    return {"certifyInfo": bytes(info), "certifySignature": signature.marshal()}


def _quoted(tpm: TPM, auth: ParentAuth, selection: TPML_PCR_SELECTION, qualifying: bytes) -> _Values:
    """Quote PCRs, with their values."""
    with _attestation_key(tpm, auth) as ak:
        info, signature = tpm.esys.quote(ak, selection, qualifying, _OWN_SCHEME)
    values = []
    for bank in selection:
        bits = int.from_bytes(bytes(bank.pcrSelect)[: bank.sizeofSelect], "little")
        for number in range(8 * bank.sizeofSelect):
            if bits >> number & 1:
                values += _pcr(tpm, PCR(bank.hash, number))
    return {"quoteInfo": bytes(info), "quoteSignature": signature.marshal(), "pcrValues": tuple(values)}


def _pcr(tpm: TPM, pcr: PCR) -> list[bytes]:
    _, _, values = tpm.esys.pcr_read(f"{pcr.bank:#x}:{pcr.number}")
    if not len(values):
        raise SigningKeyError(f"the TPM at {tpm.tcti} has no PCR {pcr}", "List those it has with tpm2_pcrread")
    return [bytes(value) for value in values]


def _selection(pcrs: str) -> TPML_PCR_SELECTION:
    try:
        return TPML_PCR_SELECTION.parse(pcrs)
    except ValueError as error:
        raise UsageError(f"--pcrs is {pcrs[:60]!r}: {error}", "Write a bank and its PCRs: sha256:7,14") from error


def _unmarshalled(kind: type[_Structure], data: bytes) -> _Structure:
    try:
        structure, length = kind.unmarshal(data)
    except TSS2_Exception:
        length = -1
    if length != len(data):
        raise AttestationError("the challenge is damaged", "Ask for it again")
    return structure
