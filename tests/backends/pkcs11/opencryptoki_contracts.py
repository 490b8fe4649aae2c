"""The contracts with opencryptoki, for a process that has its daemon: see `real_modules.opencryptoki_token`."""

from __future__ import annotations

import pytest

from backends.pkcs11.module_contracts import ModuleKeyContract, ModulePinContract, public_keys
from real_modules import ModuleToken, find_opencryptoki

__all__ = ["public_keys"]


@pytest.fixture(scope="module")
def token(hardware: None) -> ModuleToken:
    return ModuleToken(find_opencryptoki(), "hushed")


class TestModuleKey(ModuleKeyContract):
    KINDS = ("P-256",)  # Each login takes half a second.


class TestModulePin(ModulePinContract):
    pass
