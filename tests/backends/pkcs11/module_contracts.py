"""The contracts of backends for a token of any module, which is the fixture `token` of the module that has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from any_module import open_key
from backends.contract import KeyContract, LockedKey, MakeKey, OpenKey, PinContract
from hwsigner.key import Key
from pkcs11_shim import forget_refusals
from real_modules import ModuleToken

KEYS = {"P-256": ("EC:prime256v1", b"\x01"), "RSA-2048": ("rsa:2048", b"\x03")}
LOCKED_ID, LOST_ID = b"\x04", b"\x05"


@pytest.fixture(scope="module")
def public_keys(token: ModuleToken) -> dict[str, bytes]:
    """The public keys of new keys, as pkcs11-tool reads them. Modules may not see keys that are made later."""
    for label, (kind, key_id) in {**KEYS, "locked": KEYS["P-256"], "lost": KEYS["P-256"]}.items():
        token.make_key(label, {"locked": LOCKED_ID, "lost": LOST_ID}.get(label, key_id), kind)
    return {label: token.public_key(key_id) for label, (_, key_id) in KEYS.items()}


class ModuleKeyContract(KeyContract):
    """Keys that pkcs11-tool has made, of two kinds."""

    KINDS = tuple(KEYS)

    @pytest.fixture
    def make_key(self, token: ModuleToken, public_keys: dict[str, bytes]) -> MakeKey:
        forget_refusals()
        return lambda kind: (open_key(token.uri(f"object={kind}"), token.pin), public_keys[kind])

    @pytest.fixture
    def absent_key(self, token: ModuleToken) -> OpenKey:
        return lambda: open_key(token.uri("object=absent"), token.pin)

    @pytest.fixture
    def unreachable_key(self, token: ModuleToken) -> OpenKey:
        return lambda: open_key(replace(token, label="absent").uri("object=P-256"), token.pin)

    @pytest.fixture
    def lost_key(self, token: ModuleToken, public_keys: dict[str, bytes]) -> Key:
        """A key that another program has deleted since."""
        key = open_key(token.uri("object=lost"), token.pin)
        token.delete_key(LOST_ID)
        return key


class ModulePinContract(PinContract):
    """The PIN of a token with a key that pkcs11-tool has made."""

    @pytest.fixture
    def locked_key(self, token: ModuleToken, public_keys: dict[str, bytes]) -> Iterator[LockedKey]:
        """A good login before and after clears the token's warning."""
        key = token.uri("object=locked")

        def log_in() -> None:
            forget_refusals()
            token.forgive()
            open_key(key, lambda request: token.pin).close()

        log_in()
        yield LockedKey(lambda pin: open_key(key, pin), pin=token.pin)
        log_in()
