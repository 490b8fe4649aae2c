"""A backend whose one key is in a dict, with its contracts. The variable FAULT plants a fault: see test_testing.py."""

from __future__ import annotations

import os
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwsigner import Algorithm, HashName, Key, KeyURI, PinRequest, PinSource
from hwsigner.backends import Backend, register
from hwsigner.errors import KeyNotFoundError, SigningKeyError, UnsupportedKeyError, WrongPinError
from hwsigner.testing import KeyContract, LockedKey, MakeKey, OpenKey, PinContract

FAULT = os.environ.get("FAULT", "")
PIN = "right-4711"
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
KEYS = {"web": ec.generate_private_key(ec.SECP256R1())}
PUBLIC_KEY = KEYS["web"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

register("dict", Backend(__name__))


class DictKey(Key):
    """The key in the dict, as long as it is there."""

    def __init__(self) -> None:
        self._is_open = True

    @property
    def algorithm(self) -> Algorithm:
        return "AWS4-X509-ECDSA-SHA256"

    def public_key(self) -> bytes:
        return PUBLIC_KEY

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        if not self._is_open:
            raise SigningKeyError("the key is closed")
        if hash not in HASHES:
            raise UnsupportedKeyError(f"no hash {hash}")
        if not KEYS:
            raise OSError("gone") if FAULT == "signing leaks an OSError" else SigningKeyError("gone")
        return KEYS["web"].sign(message, ec.ECDSA(HASHES[hash]))

    def close(self) -> None:
        self._is_open = False


def open_key(uri: KeyURI, pins: PinSource) -> Key:
    """Open the key, with the faults."""
    if "shelf" in uri.path:
        raise FileNotFoundError("shelf") if FAULT == "opening leaks an OSError" else SigningKeyError("no such shelf")
    if uri.text("label") not in KEYS and FAULT != "an unknown label opens another key":
        raise KeyNotFoundError("no such key")
    request = PinRequest("PIN", "the dict")
    pin = pins.get(uri, request)
    if pin != PIN:
        raise WrongPinError("wrong PIN for the dict")
    if FAULT != "a PIN is not remembered":
        pins.remember(request, pin)
    return DictKey()


def open_by(pin: Any = PIN, **path: bytes) -> Key:
    return open_key(KeyURI("dict", path), PinSource.of(pin))


class TestDictKey(KeyContract):
    KINDS = ("P-256",)

    @pytest.fixture
    def make_key(self) -> MakeKey:
        return lambda kind: (open_by(label=b"web"), PUBLIC_KEY)

    @pytest.fixture
    def absent_key(self) -> OpenKey:
        return lambda: open_by(label=b"absent")

    @pytest.fixture
    def unreachable_key(self) -> OpenKey:
        return lambda: open_by(shelf=b"none")

    @pytest.fixture
    def lost_key(self, monkeypatch: pytest.MonkeyPatch) -> Key:
        key = open_by(label=b"web")
        monkeypatch.delitem(KEYS, "web")
        return key


class TestDictPin(PinContract):
    @pytest.fixture
    def locked_key(self) -> LockedKey:
        return LockedKey(lambda pin: open_by(pin, label=b"web"), PIN)
