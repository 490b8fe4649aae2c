"""Two TPMs of one vendor and one of another, each with a key."""

from attestation.chips import chip, chips, vendors

__all__ = ["chip", "chips", "vendors"]
