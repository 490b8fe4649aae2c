"""PCRs (TPM 2.0 Library, part 1, 17): selections of them, their values, and the digest that a policy has of these."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tpm2_pytss import ESAPI, TPM2_ALG, TPML_PCR_SELECTION, TSS2_Exception

from hwsigner.backends.tpm2.errors import HASH, code

# The hashes of banks, and of names and policies (TPM 2.0 Library, part 2, 6.3).
HASHES = {0x4: "sha1", 0xB: "sha256", 0xC: "sha384", 0xD: "sha512"}
_READ_AT_ONCE = 8
_PC_CLIENT_BYTES = 3


class PCR(NamedTuple):
    """One PCR: its bank's hash algorithm, and its number."""

    bank: int
    number: int

    def __str__(self) -> str:
        return f"{HASHES.get(self.bank) or TPM2_ALG(self.bank)}:{self.number}"


class Selection(NamedTuple):
    """Which PCRs, in the order in which a TPM takes them.

    Attributes:
        pcrs: they themselves.
        marshalled: the TPML_PCR_SELECTION (TPM 2.0 Library, part 2, 10.9.7).
    """

    pcrs: tuple[PCR, ...]
    marshalled: bytes

    def digest(self, values: Mapping[PCR, bytes], hash_name: str) -> bytes:
        """Return the digest of the values, as TPM2_PolicyPCR compares it."""
        return hashlib.new(hash_name, b"".join(values[pcr] for pcr in self.pcrs)).digest()


def read_selection(data: bytes) -> tuple[Selection, bytes]:
    """Return the selection that bytes begin with, and the rest of them.

    Raises:
        ValueError: they begin with none.
    """
    try:
        (count,) = struct.unpack_from(">I", data)
        offset, pcrs = 4, []
        for _ in range(count):
            bank, size = struct.unpack_from(">HB", data, offset)
            select = data[offset + 3 : offset + 3 + size]
            if len(select) < size:
                raise ValueError("a PCR selection is cut short")
            pcrs += [PCR(bank, i) for i in range(8 * size) if select[i // 8] >> i % 8 & 1]
            offset += 3 + size
    except struct.error as error:
        raise ValueError("a PCR selection is cut short") from error
    return Selection(tuple(pcrs), data[:offset]), data[offset:]


def read_values(tpm: ESAPI, selection: Selection) -> dict[PCR, bytes]:
    """Ask the TPM for the PCRs' values. A PCR that it does not have has the empty one."""
    values = dict.fromkeys(selection.pcrs, b"")
    for bank in {pcr.bank for pcr in selection.pcrs}:
        of_bank = [pcr for pcr in selection.pcrs if pcr.bank == bank]
        for start in range(0, len(of_bank), _READ_AT_ONCE):
            values |= _read(tpm, select(of_bank[start : start + _READ_AT_ONCE]))
    return values


def _read(tpm: ESAPI, selection: Selection) -> dict[PCR, bytes]:
    try:
        _, answered, digests = tpm.pcr_read(TPML_PCR_SELECTION.unmarshal(selection.marshalled)[0])
    except TSS2_Exception as error:
        if code(error) != HASH:
            raise
        return {}  # The TPM does not know the bank's hash.
    found, _ = read_selection(answered.marshal())
    return dict(zip(found.pcrs, map(bytes, digests), strict=True))


def select(pcrs: Iterable[PCR]) -> Selection:
    """Return the selection of PCRs of one bank, in the order of their numbers."""
    chosen = tuple(sorted(pcrs))
    size = max(_PC_CLIENT_BYTES, chosen[-1].number // 8 + 1)
    bits = sum(1 << pcr.number for pcr in chosen)
    return Selection(chosen, struct.pack(">IHB", 1, chosen[0].bank, size) + bits.to_bytes(size, "little"))
