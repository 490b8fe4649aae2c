"""One CA, one caller of each kind of key, and an emulator that trusts the CA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa

from certs import Authority, issue
from emulator.client import Caller
from emulator.planes import client
from hwsigner.emulator import Emulator, World

KEYS: dict[str, Callable[[], Any]] = {
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-4096": lambda: rsa.generate_private_key(65537, 4096),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate,
}


@pytest.fixture(scope="session")
def callers(ca: Authority) -> dict[str, Caller]:
    made = {name: make() for name, make in KEYS.items()}
    return {name: Caller(key, issue(ca, key.public_key())) for name, key in made.items()}


@pytest.fixture(scope="session")
def caller(callers: dict[str, Caller]) -> Caller:
    return callers["P-256"]


@pytest.fixture
def emulator(ca: Authority) -> Iterator[Emulator]:
    with Emulator(World.simple(ca.pem)) as running:
        yield running


@pytest.fixture
def plane(emulator: Emulator) -> Any:
    """The control plane, called by boto3."""
    return client(emulator)
