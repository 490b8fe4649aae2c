"""A registrar that knows one YubiKey."""

from __future__ import annotations

from pathlib import Path

import pytest

import certs
from attestation.chips import chip, chips, vendors
from attestation.piv_chains import Chain, old_chain
from enrolment.registrar.sites import Issuer, Site, yubikey

__all__ = ["chain", "chip", "chips", "site", "vendors"]


@pytest.fixture(scope="session")
def chain() -> Chain:
    """The certificates of a YubiKey."""
    return old_chain()


@pytest.fixture
def site(chain: Chain, ca: certs.Authority, tmp_path: Path) -> Site:
    """A registrar's site whose policy has that YubiKey."""
    site = Site(tmp_path, chain.trust, Issuer(ca))
    site.allow(yubikey(chain))
    return site
