"""Questions on attestation: the endorsement key and its certificate, the attestation key, and what it signs.

Nothing of them is kept or written: neither public keys nor certificates.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPMT_SIG_SCHEME

from hwsigner import attestation
from hwsigner._uri import KeyURI
from hwsigner.attestation.chain import VendorCertificate, in_usual_form
from hwsigner.attestation.credential import make_credential
from hwsigner.attestation.structures import Public, read_certified, read_public, read_quoted, verify_signature
from hwsigner.backends.tpm2.pcrs import PCRSelection
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import AttestationError
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import loaded
from hwsigner.trial.tpm.questions import Ask

_OWN_SCHEME = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
_NO_CERTIFICATE = "the TPM holds no certificate of its endorsement key"
_NONCE = b"nonce of the trial"
_REFUSED = "the verifier refuses it"


def _public(tpm: TPM, handle: ESYS_TR) -> Public:
    outer = tpm.esys.read_public(handle)[0]  # What is inside does not outlive it.
    return read_public(bytes(outer.publicArea.marshal()), "a key of the endorsement hierarchy")


def _attestation_key(chip: TrialChip, tpm: TPM) -> Public:
    with chip.endorsement.attestation_key(tpm) as ak:
        return _public(tpm, ak)


def _with_endorsement(work: Callable[[TrialChip, TPM], str], chip: TrialChip) -> str:
    """Ask a question with the endorsement hierarchy's auth value."""
    chip.require("endorsement")
    return chip.use_hierarchy(lambda tpm: work(chip, tpm))


def _certificate(chip: TrialChip, tpm: TPM) -> str:
    with chip.endorsement.endorsement_key(tpm) as (ek, certificate):
        if not certificate:
            raise NotAskedError(_NO_CERTIFICATE)
        key = _public(tpm, ek).spki
    certified = VendorCertificate.read(certificate, "the certificate").public_key
    return "that key" if in_usual_form(certified) == key else "another key"


def _activate(chip: TrialChip, tpm: TPM, *, is_own: bool) -> str:
    """Have the chip open a secret for its attestation key, or for another one."""
    secret, ak = os.urandom(32), _attestation_key(chip, tpm)
    with chip.endorsement.endorsement_key(tpm) as (key, _):
        ek = _public(tpm, key)
    name = ak.name if is_own else ak.name[:2] + hashlib.sha256(ak.name).digest()
    blob, encrypted = make_credential(ek, name, secret)
    try:
        opened = chip.endorsement.open_challenge(tpm, blob, encrypted)
    except AttestationError:
        return "refuses"
    return "opens it" if opened == secret else "gives another secret"


def _certify(chip: TrialChip, tpm: TPM) -> str:
    with loaded(tpm, chip.key(tpm, "ecc256")) as made, chip.endorsement.attestation_key(tpm) as ak:
        info, signature = tpm.esys.certify(made.handle, ak, _NONCE, _OWN_SCHEME)
        public, name = _public(tpm, ak), bytes(tpm.esys.tr_get_name(made.handle))
    try:
        verify_signature(public, signature.marshal(), bytes(info), "the certification")
        certified = read_certified(bytes(info))
    except AttestationError:
        return _REFUSED
    return "certifies it" if (certified.extra_data, certified.name) == (_NONCE, name) else "certifies another"


def _quote(chip: TrialChip, tpm: TPM) -> str:
    selection = PCRSelection(f"{chip.capabilities.bank}:0,7")
    values = b"".join(selection.values(tpm))
    with chip.endorsement.attestation_key(tpm) as ak:
        info, signature = tpm.esys.quote(ak, selection.structure(), _NONCE, _OWN_SCHEME)
        public = _public(tpm, ak)
    try:
        verify_signature(public, signature.marshal(), bytes(info), "the quote")
        quoted = read_quoted(bytes(info))
    except AttestationError:
        return _REFUSED
    return "their digest" if quoted.digest == hashlib.sha256(values).digest() else "another digest"


def _chain(chip: TrialChip) -> str:
    statement, trust = _statement(chip)
    try:
        attestation.examine(statement, trust)
    except AttestationError:
        return "to none"
    return "to a root"


def _whole(chip: TrialChip) -> str:
    statement, trust = _statement(chip)
    try:
        challenge, state = attestation.challenge(statement, trust)
        answer = attestation.answer_challenge(_key(chip), challenge, chip.pins, allow_modules=True)
        attestation.verify_answer(statement, state, answer, trust)
    except AttestationError:
        return "not proven"
    return "proven"


def _statement(chip: TrialChip) -> tuple[attestation.Document, attestation.Trust]:
    if chip.trust is None:
        raise NotAskedError("no vendor's roots are given: give --roots FOLDER")
    chip.require("endorsement")
    statement = attestation.make_statement(_key(chip), chip.pins, allow_modules=True)
    if not statement.blobs("ekCertificates"):
        raise NotAskedError(_NO_CERTIFICATE)
    return statement, chip.trust


def _key(chip: TrialChip) -> KeyURI:
    return chip.key_file(chip.use(lambda tpm: chip.key(tpm, "ecc256")))


ASKS: Mapping[str, Ask] = {
    "endorsement.certificate": partial(_with_endorsement, _certificate),
    "endorsement.activate": partial(_with_endorsement, partial(_activate, is_own=True)),
    "endorsement.activate-other": partial(_with_endorsement, partial(_activate, is_own=False)),
    "endorsement.certify": partial(_with_endorsement, _certify),
    "endorsement.quote": partial(_with_endorsement, _quote),
    "endorsement.chain": _chain,
    "endorsement.whole": _whole,
}
