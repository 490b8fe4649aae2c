"""The contract that hwsigner ships for every backend, and what these tests run programs with."""

from __future__ import annotations

from hwsigner.testing import HASHES, KeyContract, LockedKey, MakeKey, OpenKey, PinContract, openssl_verifies

__all__ = ["ENVIRONMENT", "HASHES", "KeyContract", "LockedKey", "MakeKey", "OpenKey", "PinContract", "openssl_verifies"]

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
