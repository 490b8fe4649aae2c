"""Two TPMs of one vendor and one of another, each with a key."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from attestation.chips import Chip, Vendor


@pytest.fixture(scope="session")
def vendors(hardware: None) -> Iterator[tuple[Vendor, Vendor]]:
    """Two vendors of TPMs."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-vendor-") as one, tempfile.TemporaryDirectory() as other:
        yield Vendor(Path(one)), Vendor(Path(other))


@pytest.fixture(scope="session")
def chips(vendors: tuple[Vendor, Vendor]) -> Iterator[tuple[Chip, Chip, Chip]]:
    """Two TPMs of one vendor, and one of another."""
    with ExitStack() as stack:
        made = []
        for vendor in (vendors[0], vendors[0], vendors[1]):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsigner-chip-")))
            tpm = stack.enter_context(vendor.make(folder))
            tpm.create_key_file(folder / "key.pem", "EC:P-256")
            made.append(Chip(tpm, tpm.uri(folder / "key.pem"), vendor.trust()))
        yield made[0], made[1], made[2]


@pytest.fixture(scope="session")
def chip(chips: tuple[Chip, Chip, Chip]) -> Chip:
    """A TPM."""
    return chips[0]
