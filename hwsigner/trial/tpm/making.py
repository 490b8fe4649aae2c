"""Keys that a trial makes: in the null hierarchy, which has no auth value and forgets them at the next reset.

Their parent shows what a killed trial left. What outlasts a reset has the mark as its policy, which nothing satisfies.
Wrong auth values for them do not count (noDA).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMS_SENSITIVE_CREATE,
    TPMT_PUBLIC_PARMS,
    TSS2_Exception,
)

from hwsigner.backends.tpm2 import errors
from hwsigner.backends.tpm2.public_area import encoded, read_public_area, spki_of
from hwsigner.backends.tpm2.srk import ecc_primary
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.key import HashName
from hwsigner.key.public_key import verify
from hwsigner.trial.questions import NotAskedError

MARK = hashlib.sha256(b"hwsigner trial").digest()
MESSAGE = b"What does this chip do?"
# As in what `keygen` makes.
SIGNING = TPMA_OBJECT(
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.SIGN_ENCRYPT
)
BY_POLICY = TPMA_OBJECT(SIGNING & ~TPMA_OBJECT.USERWITHAUTH)
RESTRICTED = TPMA_OBJECT(SIGNING | TPMA_OBJECT.RESTRICTED)
KINDS = {
    "ecc256": "P-256",
    "ecc384": "P-384",
    "ecc521": "P-521",
    "rsa2048": "RSA-2048",
    "rsa3072": "RSA-3072",
    "rsa4096": "RSA-4096",
}
_COMMAND_CODE = 0x143
HIERARCHY = 0x85
_NAMES = (
    *("AUTH_FAIL", "BAD_AUTH", "LOCKOUT", "HASH", "HANDLE", "SCHEME", "INTEGRITY", "VALUE", "SIGNATURE", "POLICY_FAIL"),
    *("SIZE", "INSUFFICIENT", "ECC_POINT", "FAILURE", "NV_DEFINED"),
)
_CODES = {
    **{getattr(errors, name): f"TPM_RC_{name}" for name in _NAMES},
    _COMMAND_CODE: "TPM_RC_COMMAND_CODE",
    0x82: "TPM_RC_ATTRIBUTES",
    0xA0: "TPM_RC_TICKET",
    0x89: "TPM_RC_TYPE",
    0x9C: "TPM_RC_KEY",
    0x124: "TPM_RC_AUTH_TYPE",
    0x12F: "TPM_RC_AUTH_UNAVAILABLE",
    0x146: "TPM_RC_NV_RANGE",
}
_NO_ROOM = (errors.OBJECT_MEMORY, errors.NV_SPACE, *errors.SESSIONS_FULL)


@dataclass(frozen=True)
class TrialKey:
    """A key that a trial made, outside of the TPM. What is inside of its public area does not outlive that."""

    private: TPM2B_PRIVATE
    public: TPM2B_PUBLIC

    @property
    def spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        return spki_of(self.public.publicArea) or b""


def template(kind: str, attributes: TPMA_OBJECT = SIGNING, policy: bytes = MARK) -> TPM2B_PUBLIC:
    """Return the public area to ask for. `kind` is as tpm2_create -G writes it."""
    return TPM2B_PUBLIC.parse(kind, objectAttributes=attributes, nameAlg=TPM2_ALG.SHA256, authPolicy=policy)


def parent(tpm: TPM) -> AbstractContextManager[ESYS_TR]:
    """Make the trial's storage key for a `with` statement. It is the same until the TPM is reset."""
    return tpm.temporary(lambda: tpm.esys.create_primary(None, ecc_primary(), ESYS_TR.RH_NULL)[0])


def require(tpm: TPM, kind: str) -> None:
    """Raise a NotAskedError if the TPM can't make keys of a kind."""
    name = KINDS.get(kind.partition(":")[0], kind)
    try:
        area = TPM2B_PUBLIC.parse(kind).publicArea
        tpm.esys.test_parms(TPMT_PUBLIC_PARMS(type=area.type, parameters=area.parameters))
    except TSS2_Exception as error:
        if errors.is_about_parameter(error):
            raise NotAskedError(f"the TPM has no {name}") from error
        if errors.code(error) != _COMMAND_CODE:  # Otherwise, making one shows it.
            raise


def make(tpm: TPM, public: TPM2B_PUBLIC, auth: bytes = b"") -> TrialKey:
    """Make a key under the trial's storage key, and leave nothing in the TPM."""
    secret = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=auth))
    with parent(tpm) as above:
        private, made, *_ = tpm.esys.create(above, secret, public)
    return TrialKey(private, made)


def load(tpm: TPM, key: TrialKey) -> ESYS_TR:
    """Load a key. The caller flushes it."""
    with parent(tpm) as above:
        return tpm.esys.load(above, key.private, key.public)


class LoadedKey(NamedTuple):
    """A key in the TPM."""

    key: TrialKey
    handle: ESYS_TR


@contextmanager
def loaded(tpm: TPM, key: TrialKey) -> Iterator[LoadedKey]:
    """Load a key for a `with` statement."""
    with tpm.temporary(lambda: load(tpm, key)) as handle:
        yield LoadedKey(key, handle)


@contextmanager
def new_key(tpm: TPM, public: TPM2B_PUBLIC, auth: bytes = b"") -> Iterator[LoadedKey]:
    """Make and load a key for a `with` statement."""
    with loaded(tpm, make(tpm, public, auth)) as made:
        yield made


def signs(
    tpm: TPM,
    made: LoadedKey,
    hash: HashName = "sha256",
    *,
    message: bytes = MESSAGE,
    session: ESYS_TR = ESYS_TR.PASSWORD,
) -> str:
    """Sign as hwsigner does, and return what came of it."""
    area = read_public_area(made.key.public.publicArea, "of the trial")
    digest, ticket = area.digest(tpm, message, hash)
    try:
        signature = tpm.esys.sign(made.handle, digest, area.scheme(hash), ticket, session1=session)
    except TSS2_Exception as error:
        return refusal(error)
    is_right = verify(made.key.spki, message, signature=encoded(signature), hash=hash)
    return "signs" if is_right else "makes a wrong signature"


def signs_at(tpm: TPM, handle: ESYS_TR) -> str:
    """Sign with a key of which only its handle is known."""
    public = tpm.esys.read_public(handle)[0]
    return signs(tpm, LoadedKey(TrialKey(TPM2B_PRIVATE(), public), handle))


def refusal(error: TSS2_Exception) -> str:
    """Return the TPM's refusal as an answer.

    A failure of the connection is raised, and so is a lack of room: other programs take it.
    """
    if not errors.is_answer(error) or errors.is_not_now(error) or errors.code(error) in _NO_ROOM:
        raise error
    return _CODES.get(errors.code(error), f"TPM_RC {errors.code(error):#x}")


def refused(command: Callable[[], object], unless: str = "accepted") -> str:
    """Run a command that the TPM should refuse, and return the refusal."""
    try:
        command()
    except TSS2_Exception as error:
        return refusal(error)
    return unless
