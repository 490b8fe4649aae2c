"""Questions that write: keys at persistent handles, and NV indices, in the ranges that the user names.

What they make has the mark, and is removed at the end of each question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2B_NV_PUBLIC, TPMA_NV, TPMS_NV_PUBLIC, TSS2_Exception

from hwsigner.backends.tpm2 import nv
from hwsigner.backends.tpm2.handles import check_own_handle
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import UsageError
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.tpm import capabilities as had
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import MARK, refusal, refused, signs_at, template
from hwsigner.trial.tpm.questions import Ask
from hwsigner.trial.tpm.state import remove_left

_PERSISTENT, _NV = range(0x81000000, 0x82000000), range(0x01000000, 0x02000000)
# As those of `install-certificate`.
_ATTRIBUTES = TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD | TPMA_NV.AUTHREAD | TPMA_NV.NO_DA


def read_range(text: str) -> range:
    """Return a range of persistent handles or NV indices, written `0x81000200-0x8100020f`.

    Raises:
        UsageError: it is written otherwise, or reserved.
    """
    first, _, last = text.partition("-")
    try:
        found = range(int(first, 16), int(last or first, 16) + 1)
    except ValueError:
        found = range(0)
    for places in (_PERSISTENT, _NV):
        if found and found[0] in places and found[-1] in places:
            break
    else:
        hint = "Write persistent handles as 0x81000200-0x8100020f, or NV indices as 0x01c20000-0x01c2000f"
        raise UsageError(f"{text!r} is not a range of handles or indices", hint)
    if places is _PERSISTENT:
        for handle in found[:: max(len(found) // 0x100, 1)]:
            check_own_handle(handle)
        check_own_handle(found[-1])
    elif set(found) & set(nv.EK_CERTIFICATES):
        raise UsageError(f"{text} is reserved for certificates of endorsement keys", "Use 0x01c20000-0x01c2000f")
    return found


def _free(chip: TrialChip, kinds: range) -> int:
    """Return a place of a kind that may be written and is free."""
    ranges = [places for places in chip.ranges if places[0] in kinds]
    if not ranges:
        what = "persistent handles" if kinds is _PERSISTENT else "NV indices"
        raise NotAskedError(f"no range of {what} may be written: give --write RANGE")
    chip.require("owner")
    taken = chip.use(lambda tpm: had.handles_from(tpm, kinds[0]))
    found = next((place for places in ranges for place in places if place not in taken), None)
    if found is None:
        raise NotAskedError("no place in the range is free")
    return found


def _in_free_place(chip: TrialChip, kinds: range, ask: Callable[[TPM, int], str]) -> str:
    """Write to a free place of a kind, ask about it, and remove it."""
    place = _free(chip, kinds)

    def work(tpm: TPM) -> str:
        chip.has_written = True
        try:
            return ask(tpm, place)
        except TSS2_Exception as error:
            return refusal(error)
        finally:
            remove_left(tpm, chip.auth, [place])

    return chip.use_hierarchy(work)


def _with_handle(chip: TrialChip, ask: Callable[[TrialChip, TPM, ESYS_TR, int], str]) -> str:
    """Put a key at a free handle, ask about it, and remove it."""

    def put(tpm: TPM, handle: int) -> str:
        def make() -> ESYS_TR:
            return chip.auth.as_owner(tpm, tpm.esys.create_primary, None, template("ecc256"), ESYS_TR.RH_OWNER)[0]

        with tpm.temporary(make) as key:
            tpm.esys.tr_close(_evict(chip, tpm, key, handle))
            return ask(chip, tpm, key, handle)

    return _in_free_place(chip, _PERSISTENT, put)


def _puts_another(chip: TrialChip, tpm: TPM, key: ESYS_TR, handle: int) -> str:
    return refused(lambda: _evict(chip, tpm, key, handle))


def _evict(chip: TrialChip, tpm: TPM, key: ESYS_TR, handle: int) -> ESYS_TR:
    return chip.auth.as_owner(tpm, tpm.esys.evict_control, ESYS_TR.RH_OWNER, key, handle)


def _signs_there(_: TrialChip, tpm: TPM, __: ESYS_TR, handle: int) -> str:
    with tpm.persistent(handle) as found:
        return signs_at(tpm, found)


def _written(chip: TrialChip, *, size: int) -> str:
    """Write an index in the TPM's steps, and read it as hwsigner reads certificates."""

    def ask(tpm: TPM, index: int) -> str:
        area = TPMS_NV_PUBLIC(
            nvIndex=index, nameAlg=TPM2_ALG.SHA256, attributes=_ATTRIBUTES, authPolicy=MARK, dataSize=size
        )
        tpm.esys.tr_close(chip.auth.as_owner(tpm, tpm.esys.nv_define_space, b"", TPM2B_NV_PUBLIC(nvPublic=area)))
        data = bytes(number & 0xFF for number in range(size))
        step = tpm.property(nv.NV_BUFFER_MAX)
        with nv.open_index(tpm, index) as found:
            if found is None:
                return "nothing"
            for start in range(0, size, step):
                part = data[start : start + step]
                chip.auth.as_owner(tpm, tpm.esys.nv_write, found.handle, part, start, ESYS_TR.RH_OWNER)
        return "what was written" if nv.read_index(tpm, index) == data else "something else"

    return _in_free_place(chip, _NV, ask)


ASKS: Mapping[str, Ask] = {
    "writing.persistent": partial(_with_handle, ask=_signs_there),
    "writing.taken": partial(_with_handle, ask=_puts_another),
    "writing.index": partial(_written, size=1024),
    "writing.index-2048": partial(_written, size=2048),
}
