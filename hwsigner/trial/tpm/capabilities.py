"""What a TPM says that it is and can do. Nothing of it identifies the chip or its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tpm2_pytss import TPM2_ALG, TPM2_CAP, TPMA_PERMANENT, TSS2_Exception

from hwsigner.backends.tpm2.errors import is_answer
from hwsigner.backends.tpm2.policy_commands import HASHES, read_selection
from hwsigner.backends.tpm2.tpm import TPM, is_managed
from hwsigner.trial.questions import NotAskedError

# Properties (TPM 2.0 Library, part 2, 6.13).
FAMILY, REVISION, DAY, YEAR = 0x100, 0x102, 0x103, 0x104
MANUFACTURER, VENDOR_1, FIRMWARE_1, FIRMWARE_2 = 0x105, 0x106, 0x10B, 0x10C
INPUT_BUFFER, OBJECTS_LEAST, SESSIONS_LEAST, SESSIONS_MOST, NV_INDEX_MOST = 0x10D, 0x10E, 0x110, 0x111, 0x117
PERMANENT, STARTUP_CLEAR, OBJECTS_LEFT = 0x200, 0x201, 0x207
LOCKOUT_COUNTER, MOST_FAILURES, LOCKOUT_INTERVAL, LOCKOUT_RECOVERY = 0x20E, 0x20F, 0x210, 0x211
_FIXED, _VARIABLE, _GROUP = 0x100, 0x200, 0x100
_MANY = 254
_SHA256 = 0xB
# The flags of what has an auth value.
_AUTHS = {
    "owner": TPMA_PERMANENT.OWNERAUTHSET,
    "endorsement": TPMA_PERMANENT.ENDORSEMENTAUTHSET,
    "lockout": TPMA_PERMANENT.LOCKOUTAUTHSET,
}


@dataclass(frozen=True)
class Capabilities:
    """What a TPM says of itself, by the numbers of the library. A part that it does not answer is empty.

    `banks` has how many PCRs the bank of each hash has, if it has some.
    """

    properties: Mapping[int, int]
    algorithms: frozenset[int]
    banks: Mapping[int, int]

    @property
    def auths(self) -> list[str]:
        """Which of the hierarchies `owner` and `endorsement`, and of `lockout`, have an auth value."""
        return [name for name, flag in _AUTHS.items() if self.properties.get(PERMANENT, 0) & flag]

    @property
    def vendor(self) -> str:
        """The vendor's ID in TCG's registry, such as `INTC`."""
        return letters(self.properties.get(MANUFACTURER, 0))

    @property
    def bank(self) -> str:
        """The hash of a bank that has PCRs, SHA-256 if possible, as `PCRSelection` writes it."""
        banks = sorted((number for number in self.banks if number in HASHES), key=lambda number: number != _SHA256)
        if not banks:
            raise NotAskedError("the TPM has no PCRs of a hash that hwsigner knows")
        return HASHES[banks[0]]

    def target(self, tcti: str) -> dict[str, str]:
        """Return what a report says of the TPM."""
        get = self.properties.get
        first, second = get(FIRMWARE_1, 0), get(FIRMWARE_2, 0)
        counted = f"{get(LOCKOUT_COUNTER)} of {get(MOST_FAILURES)}"
        return {
            "vendor": self.vendor,
            "vendor string": "".join(letters(get(VENDOR_1 + number, 0)) for number in range(4)),
            "firmware": f"{first:#x}.{second:#x}",
            "specification": f"family {letters(get(FAMILY, 0))}, revision {get(REVISION, 0) / 100:.2f}, "
            f"day {get(DAY, 0)} of {get(YEAR, 0)}",
            "reached by": tcti.partition(":")[0],
            "resource manager": "yes" if is_managed(tcti) else "no",
            "algorithms": ", ".join(map(_name, sorted(self.algorithms))) or "not told",
            "PCR banks": ", ".join(f"{HASHES.get(bank, hex(bank))} {count}" for bank, count in self.banks.items()),
            "objects at once, at least": str(get(OBJECTS_LEAST)),
            "sessions at once": f"{get(SESSIONS_LEAST)} loaded at least, {get(SESSIONS_MOST)} active at most",
            "wrong auth values": f"{counted}; one is forgotten in {get(LOCKOUT_INTERVAL)} s; "
            f"a lockout auth value in {get(LOCKOUT_RECOVERY)} s",
            "auth values are set for": ", ".join(self.auths) or "nothing",
        }


def read_capabilities(tpm: TPM) -> Capabilities:
    """Ask a TPM for its capabilities."""
    properties = {**_properties(tpm, _FIXED), **variable_properties(tpm)}
    return Capabilities(properties, frozenset(_algorithms(tpm)), _banks(tpm))


def handles_from(tpm: TPM, first: int) -> list[int]:
    """Return the handles of a kind, by its first one, that the TPM lists."""
    return _paged(tpm, TPM2_CAP.HANDLES, lambda data: data.handles, first)


def variable_properties(tpm: TPM) -> dict[int, int]:
    """Return the properties that change, by their numbers."""
    return _properties(tpm, _VARIABLE)


def _properties(tpm: TPM, first: int) -> dict[int, int]:
    values: dict[int, int] = {}

    def read(data: Any) -> list[int]:
        listed = {int(one.property): int(one.value) for one in data.tpmProperties}
        values.update({number: value for number, value in listed.items() if first <= number < first + _GROUP})
        return [number for number in listed if number in values]

    _paged(tpm, TPM2_CAP.TPM_PROPERTIES, read, first)
    return values


def _algorithms(tpm: TPM) -> list[int]:
    """Return what a TPM lists; nothing if it does not answer that."""
    try:
        return _paged(tpm, TPM2_CAP.ALGS, lambda data: [one.alg for one in data.algorithms])
    except TSS2_Exception as error:
        if not is_answer(error):
            raise
        return []


def _paged(tpm: TPM, kind: TPM2_CAP, read: Callable[[Any], Iterable[Any]], first: int = 0) -> list[int]:
    """Return a list that the TPM gives in parts."""
    found: list[int] = []
    while True:
        more, answer = tpm.esys.get_capability(kind, found[-1] + 1 if found else first, _MANY)
        new = [number for number in map(int, read(answer.data)) if number not in found]
        found += new
        if not (more and new):
            return found


def _banks(tpm: TPM) -> dict[int, int]:
    try:
        _, answer = tpm.esys.get_capability(TPM2_CAP.PCRS, 0, 1)
    except TSS2_Exception as error:
        if not is_answer(error):
            raise
        return {}
    pcrs = read_selection(bytes(answer.data.assignedPCR.marshal()))[0]
    return {bank: sum(pcr.bank == bank for pcr in pcrs) for bank in dict.fromkeys(pcr.bank for pcr in pcrs)}


def letters(number: int) -> str:
    """Return the letters in a property."""
    text = number.to_bytes(4, "big").rstrip(b"\0 ").decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _name(algorithm: int) -> str:
    try:
        return str(TPM2_ALG.to_string(algorithm)).rpartition(".")[2]
    except ValueError:
        return f"{algorithm:#x}"
