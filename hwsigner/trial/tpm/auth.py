"""Questions on auth values and sessions. Wrong ones go to a key with noDA only, for which they do not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_SESSION, TPMT_SYM_DEF, TPMU_SYM_KEY_BITS, TPMU_SYM_MODE

from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import LoadedKey, loaded, make, parent, refused, signs, template
from hwsigner.trial.tpm.questions import Ask

_AUTH = b"right of the trial"
_WRONG = b"wrong of the trial"
_CIPHER = TPMT_SYM_DEF(algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB))


@contextmanager
def _key(tpm: TPM, made_with: bytes, used_with: bytes) -> Iterator[LoadedKey]:
    with loaded(tpm, make(tpm, template("ecc256"), made_with)) as made:
        tpm.esys.tr_set_auth(made.handle, used_with)
        yield made


def _password(chip: TrialChip, *, made_with: bytes = _AUTH, used_with: bytes = _AUTH) -> str:
    def work(tpm: TPM) -> str:
        with _key(tpm, made_with, used_with) as made:
            return signs(tpm, made)

    return chip.use(work)


def _wrong(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        before = tpm.lockout()
        if before.left is not None and before.left <= 2:
            raise NotAskedError("the TPM is in lockout, or nearly so")
        with _key(tpm, _AUTH, _WRONG) as made:
            answer = signs(tpm, made)
        counted = tpm.lockout().failures > before.failures
        return f"{answer}, {'counted' if counted else 'not counted'}"

    return chip.use(work)


def _salted(chip: TrialChip) -> str:
    """Sign in an HMAC session that is salted with a storage key and encrypts."""

    def start(tpm: TPM, above: ESYS_TR) -> ESYS_TR:
        session = tpm.esys.start_auth_session(above, ESYS_TR.NONE, TPM2_SE.HMAC, _CIPHER, TPM2_ALG.SHA256)
        attributes = TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT
        tpm.esys.trsess_set_attributes(session, attributes)
        return session

    def work(tpm: TPM) -> str:
        key = make(tpm, template("ecc256"), _AUTH)

        def salted() -> ESYS_TR:
            with parent(tpm) as above:
                return start(tpm, above)

        with tpm.temporary(salted) as session, loaded(tpm, key) as made:
            tpm.esys.tr_set_auth(made.handle, _AUTH)
            return signs(tpm, made, session=session)

    return chip.use(work)


def _longest(chip: TrialChip) -> str:
    # The library hashes longer ones before the TPM sees them.
    return chip.use(lambda tpm: refused(lambda: make(tpm, template("ecc256"), b"a" * 32)))


ASKS: Mapping[str, Ask] = {
    "auth.password": _password,
    "auth.session": _salted,
    "auth.wrong": _wrong,
    "auth.trailing-zero": partial(_password, made_with=_AUTH + b"\0"),
    "auth.longest": _longest,
}
