"""Questions on keys: making each kind, signing with it, and what it wants to be shown before.

Wrong auth values go to a key with noDA only, for which they do not count. No PCR is changed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPMA_SESSION,
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
    TSS2_Exception,
)

from hwsigner.backends.tpm2.errors import OTHER_PARENT, code, is_lost
from hwsigner.backends.tpm2.key_file import PolicyCommand
from hwsigner.backends.tpm2.pcrs import PCRSelection, policy_digest
from hwsigner.backends.tpm2.policy_commands import (
    POLICY_AUTH_VALUE,
    POLICY_OR,
    read_command,
)
from hwsigner.backends.tpm2.public_area import read_public_area
from hwsigner.backends.tpm2.srk import ecc_primary
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.key import HashName
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.tpm.chip import TrialChip, with_tpm
from hwsigner.trial.tpm.making import (
    BY_POLICY,
    KINDS,
    MESSAGE,
    RESTRICTED,
    LoadedKey,
    load,
    loaded,
    make,
    new_key,
    parent,
    refusal,
    require,
    signs,
    template,
)
from hwsigner.trial.tpm.questions import Ask

_HASHES: dict[HashName, int] = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}
_AUTH, _WRONG = b"right of the trial", b"wrong of the trial"
_CIPHER = TPMT_SYM_DEF(algorithm=TPM2_ALG.AES, keyBits=TPMU_SYM_KEY_BITS(aes=128), mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB))
_Commands = tuple[PolicyCommand, ...]


def _require_hash(chip: TrialChip, hash: HashName) -> None:
    if _HASHES[hash] not in chip.capabilities.algorithms:
        raise NotAskedError(f"the TPM has no {hash}")


@with_tpm
def _sign(chip: TrialChip, tpm: TPM, *, kind: str, hash: HashName = "sha256") -> str:
    _require_hash(chip, hash)
    with loaded(tpm, chip.key(tpm, kind)) as made:
        return signs(tpm, made, hash)


@with_tpm
def _fixed_scheme(chip: TrialChip, tpm: TPM) -> str:
    _require_hash(chip, "sha384")
    with new_key(tpm, template("ecc256:ecdsa-sha256")) as made:
        answer = signs(tpm, made, "sha384")
    return "refuses hash or scheme" if answer in ("TPM_RC_HASH", "TPM_RC_SCHEME") else answer


@with_tpm
def _restricted(_: TrialChip, tpm: TPM, *, message: bytes) -> str:
    require(tpm, "ecc256")
    with new_key(tpm, template("ecc256:ecdsa-sha256:null", RESTRICTED)) as made:
        return signs(tpm, made, message=message)


@with_tpm
def _other_parent(chip: TrialChip, tpm: TPM) -> str:
    """Load a key under a parent that should not take it."""
    key, other = chip.key(tpm, "ecc256"), ecc_primary()
    other.publicArea.unique.ecc.x = other.publicArea.unique.ecc.y = bytes(32)
    with tpm.temporary(lambda: tpm.esys.create_primary(None, other, ESYS_TR.RH_NULL)[0]) as above:
        try:
            with tpm.temporary(lambda: tpm.esys.load(above, key.private, key.public)):
                return "accepted"
        except TSS2_Exception as error:
            return "refused as another parent's" if code(error) in OTHER_PARENT else refusal(error)


@with_tpm
def _saved_context(chip: TrialChip, tpm: TPM) -> str:
    with loaded(tpm, chip.key(tpm, "ecc256")) as made:
        saved = tpm.esys.context_save(made.handle)
    with tpm.temporary(lambda: tpm.esys.context_load(saved)) as handle:
        return signs(tpm, made._replace(handle=handle))


@with_tpm
def _lost(chip: TrialChip, tpm: TPM) -> str:
    handle = load(tpm, key := chip.key(tpm, "ecc256"))
    scheme = read_public_area(key.public.publicArea, "of the trial").scheme("sha256")
    tpm.flush_handle(int(tpm.esys.tr_get_tpm_handle(handle)))
    try:
        tpm.esys.sign(handle, bytes(32), scheme, None)
    except TSS2_Exception as error:
        return "that it is lost" if is_lost(error) else refusal(error)
    finally:
        tpm.esys.tr_close(handle)
    return "signs"


@contextmanager
def _with_auth(tpm: TPM, made_with: bytes, used_with: bytes) -> Iterator[LoadedKey]:
    with loaded(tpm, make(tpm, template("ecc256"), made_with)) as made:
        tpm.esys.tr_set_auth(made.handle, used_with)
        yield made


@with_tpm
def _password(_: TrialChip, tpm: TPM, *, made_with: bytes = _AUTH) -> str:
    with _with_auth(tpm, made_with, _AUTH) as made:
        return signs(tpm, made)


@with_tpm
def _wrong(_: TrialChip, tpm: TPM) -> str:
    before = tpm.lockout()
    if before.left is not None and before.left <= 2:
        raise NotAskedError("the TPM is in lockout, or nearly so")
    with _with_auth(tpm, _AUTH, _WRONG) as made:
        answer = signs(tpm, made)
    counted = tpm.lockout().failures > before.failures
    return f"{answer}, {'counted' if counted else 'not counted'}"


@with_tpm
def _salted(_: TrialChip, tpm: TPM) -> str:
    """Sign in an HMAC session that is salted with a storage key and encrypts."""
    key = make(tpm, template("ecc256"), _AUTH)

    def salted() -> ESYS_TR:
        with parent(tpm) as above:
            session = tpm.esys.start_auth_session(above, ESYS_TR.NONE, TPM2_SE.HMAC, _CIPHER, TPM2_ALG.SHA256)
        attributes = TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT
        tpm.esys.trsess_set_attributes(session, attributes)
        return session

    with tpm.temporary(salted) as session, loaded(tpm, key) as made:
        tpm.esys.tr_set_auth(made.handle, _AUTH)
        return signs(tpm, made, session=session)


def _selection(chip: TrialChip) -> PCRSelection:
    return PCRSelection(f"{chip.capabilities.bank}:0,7")


def _pcrs(chip: TrialChip, tpm: TPM, *, with_auth: bool = False) -> _Commands:
    return _selection(chip).policy(tpm, with_auth=with_auth)


def _either(chip: TrialChip, tpm: TPM) -> _Commands:
    pcrs = _pcrs(chip, tpm)
    digests = policy_digest(pcrs), hashlib.sha256(b"another branch").digest()
    body = struct.pack(">I", len(digests)) + b"".join(struct.pack(">H", len(one)) + one for one in digests)
    return (*pcrs, PolicyCommand(POLICY_OR, body))


def _auth_value(*_: object) -> _Commands:
    return (PolicyCommand(POLICY_AUTH_VALUE),)


@with_tpm
def _policy(
    chip: TrialChip, tpm: TPM, *, commands: Callable[[TrialChip, TPM], _Commands], auth: bytes = b"", shown: bool = True
) -> str:
    """Sign with a key that has a policy, in a session that satisfies it or in which nothing is shown."""
    policy = commands(chip, tpm)
    public = template("ecc256", BY_POLICY, policy_digest(policy))
    with new_key(tpm, public, auth) as made, tpm.policy_session(TPM2_ALG.SHA256) as session:
        for command in policy if shown else ():
            read_command(command).run(tpm, session, "sha256")
        tpm.esys.tr_set_auth(made.handle, auth)
        return signs(tpm, made, session=session)


@with_tpm
def _by_auth_alone(chip: TrialChip, tpm: TPM) -> str:
    with new_key(tpm, template("ecc256", BY_POLICY, policy_digest(_pcrs(chip, tpm)))) as made:
        return signs(tpm, made)


ASKS: Mapping[str, Ask] = {
    **{f"keys.{name.lower()}": partial(_sign, kind=kind) for kind, name in KINDS.items()},
    "keys.p-256-sha-384": partial(_sign, kind="ecc256", hash="sha384"),
    "keys.rsa-2048-sha-512": partial(_sign, kind="rsa2048", hash="sha512"),
    "keys.fixed-scheme": _fixed_scheme,
    "keys.restricted": partial(_restricted, message=MESSAGE),
    "keys.restricted-long": partial(_restricted, message=MESSAGE.ljust(3000, b".")),
    "keys.other-parent": _other_parent,
    "keys.saved-context": _saved_context,
    "keys.lost": _lost,
    "auth.password": _password,
    "auth.session": _salted,
    "auth.wrong": _wrong,
    "auth.trailing-zero": partial(_password, made_with=_AUTH + b"\0"),
    "policies.pcrs": partial(_policy, commands=_pcrs),
    "policies.pcrs-and-auth": partial(_policy, commands=partial(_pcrs, with_auth=True), auth=_AUTH),
    "policies.or": partial(_policy, commands=_either),
    "policies.auth-value": partial(_policy, commands=_auth_value, auth=_AUTH),
    "policies.unsatisfied": partial(_policy, commands=_pcrs, shown=False),
    "policies.without-session": _by_auth_alone,
}
