"""PCRs: selections as a TPM marshals them, their values, and which of them differ from what a policy wants."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from hwsigner.backends.tpm2.pcrs import PCR, read_selection, read_values, select
from hypothesis import given
from hypothesis import strategies as st
from tpm2_pytss import ESAPI, TPML_PCR_SELECTION

from backends.tpm2.tpms import Tools
from hwsigner.backends.tpm2 import pcr_memory as memory

pytestmark = pytest.mark.usefixtures("refused_auth")

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
def test_a_selection_is_read_as_the_library_writes_it(banks: dict[int, set[int]], rest: bytes) -> None:
    data = marshalled(banks)
    assert TPML_PCR_SELECTION.unmarshal(data)[0].marshal() == data
    selection, remaining = read_selection(data + rest)
    assert list(selection.pcrs) == [PCR(bank, number) for bank in banks for number in sorted(banks[bank])]
    assert (selection.marshalled, remaining) == (data, rest)


@given(banks=BANKS.filter(bool), data=st.data())
def test_a_selection_that_is_cut_short(banks: dict[int, set[int]], data: st.DataObject) -> None:
    whole = marshalled(banks)
    with pytest.raises(ValueError, match="cut short"):
        read_selection(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(bank=st.sampled_from([SHA1, SHA256]), numbers=st.sets(st.integers(0, 31), min_size=1))
def test_a_selection_that_is_made_is_read(bank: int, numbers: set[int]) -> None:
    made = select(PCR(bank, number) for number in numbers)
    assert read_selection(made.marshalled) == (made, b"")
    assert made.pcrs == tuple(PCR(bank, number) for number in sorted(numbers))
    assert made.marshalled[6] == (3 if max(numbers) < 24 else 4)


@pytest.mark.parametrize(
    ("pcr", "name"), [(PCR(SHA1, 0), "sha1:0"), (PCR(SHA512, 23), "sha512:23"), (PCR(SM3, 7), "sm3_256:7")]
)
def test_how_a_pcr_is_called(pcr: PCR, name: str) -> None:
    assert str(pcr) == name


def test_all_values_are_read(tools: Tools) -> None:
    for number in range(8, 16):
        tools.run("tpm2_pcrextend", f"{number}:sha256={number:064x}")
    output = tools.path("values")
    tools.run("tpm2_pcrread", "-Q", "sha256:all+sha384:all", "-o", str(output))
    both = read_selection(marshalled({SHA256: set(range(24)), SHA384: set(range(24))}))[0]
    absent = select([PCR(SM3, 7)])
    esys = ESAPI(tools.tpm.tcti)
    values = read_values(esys, both)
    assert b"".join(values[pcr] for pcr in both.pcrs) == output.read_bytes()
    assert read_values(esys, absent) == {PCR(SM3, 7): b""}
    esys.close()


class TestWhatAPolicyWants:
    """The digest of a policy is that of PCRs 7, 16 and 17 with some values; the present ones are others."""

    SELECTION = select(PCR(SHA256, number) for number in (7, 16, 17))
    SEVEN, SIXTEEN, SEVENTEEN = SELECTION.pcrs
    ZEROS, ONES, ONE, ANOTHER = bytes(32), b"\xff" * 32, b"1" * 32, b"2" * 32

    def digest(self, *values: bytes) -> bytes:
        return hashlib.sha256(b"".join(values)).digest()

    def wanted(self, digest: bytes, *values: bytes) -> dict[PCR, bytes] | None:
        return memory.wanted(self.SELECTION, digest, dict(zip(self.SELECTION.pcrs, values, strict=True)), "sha256")

    def test_is_known_where_it_was_kept(self) -> None:
        digest = self.digest(self.ONE, self.ANOTHER, self.ANOTHER)
        assert self.wanted(digest, self.ONE, self.ONE, self.ONE) is None
        assert not memory.is_kept(self.SELECTION, digest)
        values = (self.ONE, self.ANOTHER, self.ANOTHER)
        memory.keep(self.SELECTION, digest, dict(zip(self.SELECTION.pcrs, values, strict=True)))
        assert memory.is_kept(self.SELECTION, digest)
        found = self.wanted(digest, self.ONE, self.ONE, self.ONE)
        assert found == {self.SIXTEEN: self.ANOTHER, self.SEVENTEEN: self.ANOTHER}

    def test_what_is_kept_counts_where_it_makes_the_digest(self, refused_auth: Path) -> None:
        digest = self.digest(self.ONE, self.ANOTHER, self.ANOTHER)
        values = dict.fromkeys(self.SELECTION.pcrs, self.ANOTHER)
        memory.keep(self.SELECTION, digest, values)
        assert self.wanted(digest, self.ONE, self.ONE, self.ONE) is None
        [kept] = (refused_auth.parent / "pcrs").iterdir()
        for content in (b"", b"\xff", b"00\n", b"zz\n" * 3, b"00\n" * 4):
            kept.write_bytes(content)
            assert self.wanted(digest, self.ONE, self.ONE, self.ONE) is None

    def test_is_known_where_pcrs_had_not_been_extended(self) -> None:
        present = (self.ONE, self.ONE, self.ONE)
        assert self.wanted(self.digest(self.ZEROS, self.ONE, self.ONE), *present) == {self.SEVEN: self.ZEROS}
        assert self.wanted(self.digest(self.ONE, self.ONE, self.ONES), *present) == {self.SEVENTEEN: self.ONES}
        all_three = {self.SEVEN: self.ZEROS, self.SIXTEEN: self.ZEROS, self.SEVENTEEN: self.ONES}
        assert self.wanted(self.digest(self.ZEROS, self.ZEROS, self.ONES), *present) == all_three
        assert self.wanted(self.digest(self.ZEROS, self.ZEROS, self.ZEROS), *present) is None

    def test_many_pcrs_end_the_guesses(self) -> None:
        many = select(PCR(SHA256, number) for number in range(24))
        values = dict.fromkeys(many.pcrs, self.ONE)
        assert memory.wanted(many, self.digest(self.ANOTHER), values, "sha256") is None

    def test_without_a_place_nothing_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
        digest = self.digest(self.ONE)
        assert memory.is_kept(self.SELECTION, digest)
        memory.keep(self.SELECTION, digest, dict.fromkeys(self.SELECTION.pcrs, self.ONE))
        assert self.wanted(digest, self.ONE, self.ONE, self.ONE) is None
