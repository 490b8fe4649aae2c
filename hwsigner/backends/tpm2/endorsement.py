"""The endorsement hierarchy of a TPM: its endorsement key (EK), and an attestation key (AK) of ours.

Both are made of the chip's seed, so they need not be kept, and are the same each time. The EK follows one of TCG's
templates and may be at a persistent handle too. A key URI can choose another one. The AK signs only what the TPM makes.
Making them takes the auth value of the hierarchy, where that is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

from asn1crypto.x509 import Certificate
from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPMA_OBJECT,
    TPML_DIGEST,
    TSS2_Exception,
)
from tpm2_pytss.utils import NoSuchIndex, create_ek_template, ek_template

from hwsigner.backends.pem import first_element
from hwsigner.backends.tpm2.auth import guarded_hierarchy
from hwsigner.backends.tpm2.errors import ECC_POINT, FAILURE, INSUFFICIENT, INTEGRITY, SIZE, VALUE, code
from hwsigner.backends.tpm2.handles import EK_HANDLES
from hwsigner.backends.tpm2.nv import read_index
from hwsigner.backends.tpm2.objects import ParentAuth, PersistentObject
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.backends.tpm2.uris import handle_name
from hwsigner.errors import AttestationError, CertificateError, UsageError

_Structure = TypeVar("_Structure", TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET)

# The templates of TCG EK Credential Profile (B.3, B.4), by TCG's names. Those that are quickest to make come first.
_TEMPLATES = {
    "L-2": "EK-ECC256",
    "H-2": "EK-HIGH-ECC256",
    "H-3": "EK-HIGH-ECC384",
    "L-1": "EK-RSA2048",
    "H-1": "EK-HIGH-RSA2048",
    "H-6": "EK-HIGH-RSA3072",
}
_WITHOUT_CERTIFICATE = "L-1"
_LISTED = 100
_DER_SEQUENCE = b"\x30"
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
# PolicyC, by the hash of an endorsement key of the high range: the other branch of its policy (B.6.4).
_POLICY_C = {
    TPM2_ALG.SHA256: bytes.fromhex("3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde"),
    TPM2_ALG.SHA384: bytes.fromhex(
        "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"
    ),
}
_HIERARCHY = ESYS_TR.RH_ENDORSEMENT
_HANDLE = "0[xX]81[0-9a-fA-F]{6}"
_GUARDED = guarded_hierarchy("endorsement")
# The answers to a secret for another chip, or to a damaged one. libtpms answers FAILURE for an RSA key.
_NOT_OPENED = (INTEGRITY, VALUE, SIZE, INSUFFICIENT, ECC_POINT, FAILURE)


class Endorsement:
    """The endorsement hierarchy.

    `chosen` is the endorsement key: the name of a template, such as `L-1`, or a persistent handle; empty for the first
    one that the TPM has a certificate for.
    """

    def __init__(self, auth: ParentAuth, chosen: str = "") -> None:
        self._auth = auth
        self._chosen = chosen
        self._handle = int(chosen, 16) if re.fullmatch(_HANDLE, chosen) else None
        if chosen and self._handle is None and chosen not in _TEMPLATES:
            hint = f"Use one of {', '.join(sorted(_TEMPLATES))}, or a persistent handle such as 0x81010001"
            raise UsageError(f"endorsement-key={chosen} names no endorsement key", hint)

    def attestation_key(self, tpm: TPM) -> AbstractContextManager[ESYS_TR]:
        """Make the attestation key for a `with` statement. Its own auth value is empty."""
        template = TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=_AK_ATTRIBUTES)
        template.publicArea.unique.ecc.x = _AK_LABEL.ljust(_COORDINATE_BYTES, b"\0")
        template.publicArea.unique.ecc.y = bytes(_COORDINATE_BYTES)
        return tpm.temporary(lambda: self._primary(tpm, template))

    @contextmanager
    def endorsement_key(self, tpm: TPM) -> Iterator[tuple[ESYS_TR, bytes]]:
        """Find or make the endorsement key for a `with` statement: the chosen one, or the first with a certificate.

        It comes with its certificate in DER, which is empty if the TPM has none, or if a handle was chosen.
        """
        if self._handle is not None:
            with PersistentObject(self._handle, handle_name(self._handle)).loaded(tpm) as chosen:
                yield chosen, b""
            return
        certificate, template = _certified_template(tpm, self._chosen)
        persistent = _persistent(tpm, certificate) if certificate else None
        if persistent is None:
            with tpm.temporary(lambda: self._primary(tpm, template)) as made:
                yield made, certificate
            return
        try:
            yield persistent, certificate
        finally:
            tpm.esys.tr_close(persistent)

    def open_challenge(self, tpm: TPM, credential: bytes, encrypted_secret: bytes) -> bytes:
        """Return the secret of a challenge, which the TPM opens if endorsement and attestation key are its own.

        The arguments are a TPM2B_ID_OBJECT (TPM 2.0 Library, part 2, 12.4.3) and a TPM2B_ENCRYPTED_SECRET (11.4.33).
        """
        blob, encrypted = _read(TPM2B_ID_OBJECT, credential), _read(TPM2B_ENCRYPTED_SECRET, encrypted_secret)
        with self.attestation_key(tpm) as ak, self.endorsement_key(tpm) as (ek, _), self._session(tpm, ek) as session:
            try:
                return bytes(tpm.esys.activate_credential(ak, ek, blob, encrypted, session2=session))
            except TSS2_Exception as error:
                if code(error) not in _NOT_OPENED:
                    raise
                raise AttestationError(
                    "the TPM can't open the challenge: it is for another chip, or was changed",
                    "Make the statement again on this machine, and answer the challenge to that",
                ) from error

    def _primary(self, tpm: TPM, template: TPM2B_PUBLIC) -> ESYS_TR:
        def create(session: ESYS_TR) -> ESYS_TR:
            return tpm.esys.create_primary(None, template, _HIERARCHY, session1=session)[0]

        return self._auth.prove(tpm, _HIERARCHY, _GUARDED, create)

    @contextmanager
    def _session(self, tpm: TPM, ek: ESYS_TR) -> Iterator[ESYS_TR]:
        """Open the session that authorizes a use of the endorsement key.

        Its policy is the hierarchy's auth value; in the high range, PolicyC is an alternative. There, the key's own
        auth value, which is empty, would do too. But in lockout the TPM refuses that, and it counts a failure if its
        power is cut later.
        """
        outer = tpm.esys.read_public(ek)[0]
        public = outer.publicArea
        with tpm.policy_session(public.nameAlg, has_secret=False) as session:

            def satisfy(proof: ESYS_TR) -> None:
                tpm.esys.policy_secret(_HIERARCHY, session, expiration=0, session1=proof)

            self._auth.prove(tpm, _HIERARCHY, _GUARDED, satisfy)
            if public.objectAttributes & TPMA_OBJECT.USERWITHAUTH:
                branches = [bytes(tpm.esys.policy_get_digest(session)), _POLICY_C[public.nameAlg]]
                tpm.esys.policy_or(session, TPML_DIGEST(branches))
            yield session


def _certified_template(tpm: TPM, chosen: str) -> tuple[bytes, TPM2B_PUBLIC]:
    """Return the certificate and the template of the chosen endorsement key, or of the first with a certificate."""

    def read(index: int) -> bytes:
        try:
            return read_index(tpm, index, may_risk=False)
        except CertificateError as error:
            raise NoSuchIndex(index) from error

    for name in [chosen] if chosen else _TEMPLATES:
        with suppress(ValueError):  # There is no certificate, or it is not DER.
            certificate, template = create_ek_template(_TEMPLATES[name], read)
            if certificate and certificate.startswith(_DER_SEQUENCE):
                return first_element(certificate), template
    name = _TEMPLATES[chosen or _WITHOUT_CERTIFICATE]
    with suppress(ValueError):  # A key of the high range, which has no template without a certificate.
        return b"", create_ek_template(name, read)[1]
    return b"", TPM2B_PUBLIC(publicArea=ek_template.lookup(name).template.publicArea)


def _persistent(tpm: TPM, certificate: bytes) -> ESYS_TR | None:
    """Return the persistent key of a certificate, or None."""
    wanted = b""
    with suppress(ValueError):
        wanted = Certificate.load(certificate)["tbs_certificate"]["subject_public_key_info"].dump()
    _, answer = tpm.esys.get_capability(TPM2_CAP.HANDLES, EK_HANDLES.start, _LISTED)
    for number in map(int, answer.data.handles):
        if number in EK_HANDLES:
            handle = tpm.esys.tr_from_tpmpublic(number)
            outer = tpm.esys.read_public(handle)[0]
            if outer.publicArea.to_der() == wanted:
                return handle
            tpm.esys.tr_close(handle)
    return None


def _read(kind: type[_Structure], data: bytes) -> _Structure:
    try:
        structure, length = kind.unmarshal(data)
    except TSS2_Exception:
        length = -1
    if length != len(data):
        raise AttestationError("the challenge is damaged", "Ask for the challenge again")
    return structure
