"""Questions on what a TPM is: its properties, its PCRs, and its answers for what it does not have."""

from __future__ import annotations

import struct
from functools import partial

from tpm2_pytss import TPM2B_PUBLIC, TPML_PCR_SELECTION, TPMT_PUBLIC_PARMS, TSS2_Exception

from hwsigner.backends.tpm2.errors import is_about_parameter
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.trial.questions import NotAskedError, Origin, Question, Source
from hwsigner.trial.tpm import capabilities as had
from hwsigner.trial.tpm.capabilities import handles_from
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import refusal, refused

_PROPERTIES = Source(Origin.DOCUMENT, "TPM 2.0 Library, part 2, 6.13 TPM_PT")
_PROFILE = Source(Origin.DOCUMENT, "PC Client Platform TPM Profile, 4.6")
_UNKNOWN_CURVE = 0x7FFF
_SHA256 = 0xB
_FREE_NV, _FREE_HANDLE = range(0x01C2FF00, 0x01C2FFFF), range(0x8100FF00, 0x8100FFFF)


def _family(chip: TrialChip) -> str:
    return "2.0" if chip.capabilities.properties.get(had.FAMILY) == 0x322E3000 else "another one"


def _vendor(chip: TrialChip) -> str:
    vendor = chip.capabilities.vendor
    return "yes" if vendor and vendor.isascii() and vendor.isprintable() and "?" not in vendor else "no"


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


def _is_test_refused(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        public = TPM2B_PUBLIC.parse("ecc256")
        area = public.publicArea
        area.parameters.eccDetail.curveID = _UNKNOWN_CURVE
        try:
            tpm.esys.test_parms(TPMT_PUBLIC_PARMS(type=area.type, parameters=area.parameters))
        except TSS2_Exception as error:
            return "refuses a parameter" if is_about_parameter(error) else refusal(error)
        return "accepted"

    return chip.use(work)


def _selection(bank: int) -> TPML_PCR_SELECTION:
    return TPML_PCR_SELECTION.unmarshal(struct.pack(">IHB", 1, bank, 3) + b"\xff\xff\xff")[0]


def _require_bank(chip: TrialChip) -> None:
    if _SHA256 not in chip.capabilities.banks:
        raise NotAskedError("the TPM has no PCRs of SHA-256")


def _pcrs(chip: TrialChip) -> str:
    _require_bank(chip)
    return str(chip.capabilities.banks[_SHA256])


def _at_once(chip: TrialChip) -> str:
    _require_bank(chip)
    return str(len(chip.use(lambda tpm: list(tpm.esys.pcr_read(_selection(_SHA256))[2]))))


def _read_lacking(chip: TrialChip) -> str:
    bank = had.lacking_bank(chip.capabilities, with_hash=True)
    return f"{len(chip.use(lambda tpm: list(tpm.esys.pcr_read(_selection(bank))[2])))} values"


def _policy_of_lacking(chip: TrialChip, *, with_hash: bool) -> str:
    bank = had.lacking_bank(chip.capabilities, with_hash=with_hash)

    def work(tpm: TPM) -> str:
        with tpm.policy_session(_SHA256) as session:
            return refused(lambda: tpm.esys.policy_pcr(session, bytes(32), _selection(bank)))

    return chip.use(work)


def _nothing_at(chip: TrialChip, *, first: int, places: range) -> str:
    def work(tpm: TPM) -> str:
        taken = handles_from(tpm, first)
        free = next((place for place in places if place not in taken), None)
        if free is None:
            raise NotAskedError("all places where it would be asked are taken")
        return refused(lambda: tpm.esys.tr_close(tpm.esys.tr_from_tpmpublic(free)))

    return chip.use(work)


QUESTIONS: tuple[Question[TrialChip], ...] = (
    Question(
        "basics.family",
        "Which family does the TPM say it is of?",
        "2.0",
        _PROPERTIES,
        ("docs/how-to/tpm.md",),
        _family,
    ),
    Question(
        "basics.vendor",
        "Is the vendor's ID printable?",
        "yes",
        Source(Origin.DOCUMENT, "TCG TPM Vendor ID Registry, 2"),
        ("hwsigner/backends/tpm2/listing.py: _manufacturer",),
        _vendor,
    ),
    Question(
        "basics.lockout",
        "What follows the count of wrong auth values among the properties?",
        "limit and interval",
        _PROPERTIES,
        ("hwsigner/backends/tpm2/tpm.py: lockout", "docs/how-to/tpm.md#wrong-auth-values"),
        _lockout,
    ),
    Question(
        "basics.buffer",
        "How many bytes does the TPM hash at once?",
        "1,024 or more",
        _PROFILE,
        ("hwsigner/backends/tpm2/public_area.py: _hash_in_tpm",),
        partial(_at_least, had.INPUT_BUFFER, 1024),
    ),
    Question(
        "basics.objects",
        "How many objects can be loaded at least?",
        "3 or more",
        _PROFILE,
        ("docs/how-to/tpm.md#sharing-a-tpm", "hwsigner/backends/tpm2/endorsement.py"),
        partial(_at_least, had.OBJECTS_LEAST, 3),
    ),
    Question(
        "basics.nv-size",
        "How many bytes has the largest NV index?",
        "2,048 or more",
        _PROFILE,
        ("docs/how-to/keys.md#a-tpm-server", "hwsigner/backends/tpm2/installing.py: _MAX_BYTES"),
        partial(_at_least, had.NV_INDEX_MOST, 2048),
    ),
    Question(
        "basics.nv-buffer",
        "How many bytes of an NV index are written at once?",
        "512 or more",
        _PROFILE,
        ("hwsigner/backends/tpm2/installing.py: _fill", "docs/how-to/tpm.md#certificates-in-the-tpm"),
        partial(_at_least, had.NV_BUFFER_MOST, 512),
    ),
    Question(
        "basics.test-parms",
        "What does TPM2_TestParms say to a curve that no TPM has?",
        "refuses a parameter",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 30.3 TPM2_TestParms"),
        ("hwsigner/backends/tpm2/keygen.py: _can_make",),
        _is_test_refused,
    ),
    Question(
        "basics.pcrs",
        "How many PCRs has the bank of SHA-256?",
        "24",
        _PROFILE,
        ("hwsigner/backends/tpm2/pcrs.py: PCRSelection",),
        _pcrs,
    ),
    Question(
        "basics.pcrs-at-once",
        "How many values does TPM2_PCR_Read give of 24 that are asked for?",
        "8",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 2, 10.9.5 TPML_DIGEST"),
        ("hwsigner/backends/tpm2/pcrs.py: values",),
        _at_once,
    ),
    Question(
        "basics.pcrs-lacking",
        "How many values does TPM2_PCR_Read give of a bank without PCRs, whose hash the TPM has?",
        "0 values",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 22.4 TPM2_PCR_Read"),
        ("hwsigner/backends/tpm2/pcrs.py: values",),
        _read_lacking,
    ),
    Question(
        "basics.policy-lacking",
        "What does TPM2_PolicyPCR say to such a bank?",
        "TPM_RC_VALUE",
        Source(Origin.OBSERVATION, "libtpms: no PCR is selected then, so the digest is another one"),
        ("hwsigner/backends/tpm2/policy_commands.py: run",),
        partial(_policy_of_lacking, with_hash=True),
    ),
    Question(
        "basics.policy-no-hash",
        "What does TPM2_PolicyPCR say to PCRs of a hash that the TPM lacks?",
        "TPM_RC_HASH",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 2, 9.27 TPMI_ALG_HASH"),
        ("hwsigner/backends/tpm2/policy_commands.py: run",),
        partial(_policy_of_lacking, with_hash=False),
    ),
    Question(
        "basics.no-handle",
        "What does the TPM say of a persistent handle without an object?",
        "TPM_RC_HANDLE",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 5.4 Handle Area Validation"),
        ("hwsigner/backends/tpm2/handles.py: name_at", "hwsigner/backends/tpm2/objects.py: PersistentObject"),
        partial(_nothing_at, first=0x81000000, places=_FREE_HANDLE),
    ),
    Question(
        "basics.no-index",
        "What does the TPM say of an NV index that is not defined?",
        "TPM_RC_HANDLE",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 5.4 Handle Area Validation"),
        ("hwsigner/backends/tpm2/nv.py: open_index",),
        partial(_nothing_at, first=0x01000000, places=_FREE_NV),
    ),
)
