"""Questions on what a TPM is: its properties, its PCRs, and its answers for what it does not have."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial

from tpm2_pytss import TPM2B_PUBLIC, TPML_PCR_SELECTION, TPMT_PUBLIC_PARMS, TSS2_Exception

from hwsigner.backends.tpm2.errors import is_about_parameter
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.tpm import capabilities as had
from hwsigner.trial.tpm.chip import TrialChip, with_tpm
from hwsigner.trial.tpm.making import refusal, refused
from hwsigner.trial.tpm.questions import Ask

_UNKNOWN_CURVE = 0x7FFF
_SHA256 = 0xB
_FREE_NV, _FREE_HANDLE = range(0x01C2FF00, 0x01C2FFFF), range(0x8100FF00, 0x8100FFFF)


def _at_least(number: int, least: int, chip: TrialChip) -> str:
    value = chip.capabilities.properties.get(number)
    if value is None:
        raise NotAskedError("the TPM does not tell this property")
    return f"{least:,} or more" if value >= least else f"{value:,}"


def _lockout(chip: TrialChip) -> str:
    """Ask as the backend does, and compare with the properties by their numbers."""
    lockout = chip.use(TPM.lockout)
    get = chip.capabilities.properties.get
    found = (lockout.limit, lockout.interval)
    return "limit and interval" if found == (get(had.MOST_FAILURES), get(had.LOCKOUT_INTERVAL)) else "others"


@with_tpm
def _is_test_refused(_: TrialChip, tpm: TPM) -> str:
    public = TPM2B_PUBLIC.parse("ecc256")
    area = public.publicArea
    area.parameters.eccDetail.curveID = _UNKNOWN_CURVE
    try:
        tpm.esys.test_parms(TPMT_PUBLIC_PARMS(type=area.type, parameters=area.parameters))
    except TSS2_Exception as error:
        return "refuses a parameter" if is_about_parameter(error) else refusal(error)
    return "accepted"


def _selection(bank: int) -> TPML_PCR_SELECTION:
    return TPML_PCR_SELECTION.unmarshal(struct.pack(">IHB", 1, bank, 3) + b"\xff\xff\xff")[0]


def _pcrs(chip: TrialChip) -> str:
    if _SHA256 not in chip.capabilities.banks:
        raise NotAskedError("the TPM has no PCRs of SHA-256")
    return str(chip.capabilities.banks[_SHA256])


@with_tpm
def _at_once(chip: TrialChip, tpm: TPM) -> str:
    _pcrs(chip)  # Or it is not asked.
    return str(len(list(tpm.esys.pcr_read(_selection(_SHA256))[2])))


@with_tpm
def _nothing_at(_: TrialChip, tpm: TPM, *, first: int, places: range) -> str:
    taken = had.handles_from(tpm, first)
    free = next((place for place in places if place not in taken), None)
    if free is None:
        raise NotAskedError("all places where it would be asked are taken")
    return refused(lambda: tpm.esys.tr_close(tpm.esys.tr_from_tpmpublic(free)))


ASKS: Mapping[str, Ask] = {
    "basics.lockout": _lockout,
    "basics.buffer": partial(_at_least, had.INPUT_BUFFER, 1024),
    "basics.objects": partial(_at_least, had.OBJECTS_LEAST, 3),
    "basics.nv-size": partial(_at_least, had.NV_INDEX_MOST, 2048),
    "basics.test-parms": _is_test_refused,
    "basics.pcrs": _pcrs,
    "basics.pcrs-at-once": _at_once,
    "basics.no-handle": partial(_nothing_at, first=0x81000000, places=_FREE_HANDLE),
    "basics.no-index": partial(_nothing_at, first=0x01000000, places=_FREE_NV),
}
