"""PCR selections, as a TPM marshals them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import TPML_PCR_SELECTION

from hwsigner.backends.tpm2.policy_commands import PCR, read_selection

SHA1, SHA256, SHA384, SHA512, SM3 = 0x4, 0xB, 0xC, 0xD, 0x12
BANKS = st.dictionaries(st.sampled_from([SHA1, SHA256, SHA384, SM3]), st.sets(st.integers(0, 31)), max_size=4)


def marshalled(banks: dict[int, set[int]]) -> bytes:
    """Return a TPML_PCR_SELECTION."""
    parts = [
        struct.pack(">HB", bank, 4) + sum(1 << number for number in numbers).to_bytes(4, "little")
        for bank, numbers in banks.items()
    ]
    return struct.pack(">I", len(banks)) + b"".join(parts)


@given(banks=BANKS, rest=st.binary(max_size=8))
def test_selection_is_read_as_the_library_writes_it(banks: dict[int, set[int]], rest: bytes) -> None:
    data = marshalled(banks)
    assert TPML_PCR_SELECTION.unmarshal(data)[0].marshal() == data
    pcrs, selection, remaining = read_selection(data + rest)
    assert list(pcrs) == [PCR(bank, number) for bank in banks for number in sorted(banks[bank])]
    assert (selection, remaining) == (data, rest)


@given(banks=BANKS.filter(bool), data=st.data())
def test_selection_that_is_cut_short_is_refused(banks: dict[int, set[int]], data: st.DataObject) -> None:
    whole = marshalled(banks)
    with pytest.raises(ValueError, match="cut short"):
        read_selection(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(
    ("pcr", "name"), [(PCR(SHA1, 0), "sha1:0"), (PCR(SHA512, 23), "sha512:23"), (PCR(SM3, 7), "sm3_256:7")]
)
def test_pcr_is_named_by_its_bank_and_number(pcr: PCR, name: str) -> None:
    assert str(pcr) == name
