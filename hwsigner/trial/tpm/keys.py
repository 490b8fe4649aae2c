"""Questions on keys: making each kind, and signing with it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2_RH, TPM2_ST, TPMT_TK_HASHCHECK, TSS2_Exception

from hwsigner.backends.tpm2.errors import OTHER_PARENT, code, is_lost
from hwsigner.backends.tpm2.public_area import read_public_area
from hwsigner.backends.tpm2.srk import ecc_primary
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.key import HashName
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import (
    KINDS,
    MESSAGE,
    RESTRICTED,
    TrialKey,
    load,
    loaded,
    new_key,
    parent,
    refusal,
    refused,
    require,
    signs,
    template,
)
from hwsigner.trial.tpm.questions import Ask

_HASHES: dict[HashName, int] = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}
_RESTRICTED_KIND = "ecc256:ecdsa-sha256:null"


def _sign(chip: TrialChip, *, kind: str, hash: HashName = "sha256") -> str:
    def work(tpm: TPM) -> str:
        if _HASHES[hash] not in chip.capabilities.algorithms:
            raise NotAskedError(f"the TPM has no {hash}")
        with loaded(tpm, chip.key(tpm, kind)) as made:
            return signs(tpm, made, hash)

    return chip.use(work)


def _is_as_asked(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        made = chip.key(tpm, "ecc256").public
        asked = template("ecc256")
        asked.publicArea.unique = made.publicArea.unique
        return "yes" if asked.marshal() == made.marshal() else "no"

    return chip.use(work)


def _fixed_scheme(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        if _HASHES["sha384"] not in chip.capabilities.algorithms:
            raise NotAskedError("the TPM has no sha384")
        with new_key(tpm, template("ecc256:ecdsa-sha256")) as made:
            answer = signs(tpm, made, "sha384")
        return "refuses hash or scheme" if answer in ("TPM_RC_HASH", "TPM_RC_SCHEME") else answer

    return chip.use(work)


def _restricted(chip: TrialChip, *, message: bytes) -> str:
    def work(tpm: TPM) -> str:
        require(tpm, "ecc256")
        with new_key(tpm, template(_RESTRICTED_KIND, RESTRICTED)) as made:
            return signs(tpm, made, message=message)

    return chip.use(work)


def _without_ticket(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        with new_key(tpm, template(_RESTRICTED_KIND, RESTRICTED)) as made:
            scheme = read_public_area(made.key.public.publicArea, "of the trial").scheme("sha256")
            ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
            return refused(lambda: tpm.esys.sign(made.handle, bytes(32), scheme, ticket))

    return chip.use(work)


def _generated(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        _, ticket = tpm.esys.hash(b"\xffTCG and more", TPM2_ALG.SHA256, ESYS_TR.RH_OWNER)
        return "a ticket for it" if bytes(ticket.digest) else "no ticket"

    return chip.use(work)


def _other_parent(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        key = chip.key(tpm, "ecc256")
        other = ecc_primary()
        other.publicArea.unique.ecc.x = other.publicArea.unique.ecc.y = bytes(32)
        with tpm.temporary(lambda: tpm.esys.create_primary(None, other, ESYS_TR.RH_NULL)[0]) as above:
            return _as_others(tpm, above, key)

    return chip.use(work)


def _damaged(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        key = chip.key(tpm, "ecc256")
        private = bytearray(key.private.marshal())
        private[-1] ^= 1
        damaged = TrialKey(type(key.private).unmarshal(bytes(private))[0], key.public)
        with parent(tpm) as above:
            return _as_others(tpm, above, damaged)

    return chip.use(work)


def _as_others(tpm: TPM, above: ESYS_TR, key: TrialKey) -> str:
    """Load a key under a parent that should not take it."""
    try:
        with tpm.temporary(lambda: tpm.esys.load(above, key.private, key.public)):
            return "accepted"
    except TSS2_Exception as error:
        return "refused as another parent's" if code(error) in OTHER_PARENT else refusal(error)


def _same_parent(chip: TrialChip) -> str:
    def name(tpm: TPM) -> bytes:
        with parent(tpm) as above:
            return bytes(tpm.esys.tr_get_name(above))

    return "the same" if chip.use(name) == chip.use(name) else "another one"


def _saved_context(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        key = chip.key(tpm, "ecc256")
        with loaded(tpm, key) as made:
            saved = tpm.esys.context_save(made.handle)
        with tpm.temporary(lambda: tpm.esys.context_load(saved)) as handle:
            return signs(tpm, made._replace(handle=handle))

    return chip.use(work)


def _lost(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
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

    return chip.use(work)


ASKS: Mapping[str, Ask] = {
    **{f"keys.{name.lower()}": partial(_sign, kind=kind) for kind, name in KINDS.items()},
    "keys.p-256-sha-384": partial(_sign, kind="ecc256", hash="sha384"),
    "keys.rsa-2048-sha-512": partial(_sign, kind="rsa2048", hash="sha512"),
    "keys.as-asked": _is_as_asked,
    "keys.fixed-scheme": _fixed_scheme,
    "keys.restricted": partial(_restricted, message=MESSAGE),
    "keys.restricted-long": partial(_restricted, message=MESSAGE.ljust(3000, b".")),
    "keys.restricted-without-ticket": _without_ticket,
    "keys.generated": _generated,
    "keys.other-parent": _other_parent,
    "keys.damaged": _damaged,
    "keys.same-parent": _same_parent,
    "keys.saved-context": _saved_context,
    "keys.lost": _lost,
}
