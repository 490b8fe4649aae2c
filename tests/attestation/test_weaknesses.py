"""Keys that are known to be weak."""

from __future__ import annotations

import math
import random

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwsigner.attestation.weaknesses import _PRIMES, is_roca, weaknesses_of_tpm

_PRODUCT = math.prod((2, *_PRIMES))


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _prime(chance: random.Random, bits: int) -> int:
    """Return a prime as Infineon's library made them: k * M + (65537 ** a mod M)."""
    while True:
        number = chance.getrandbits(bits - _PRODUCT.bit_length()) * _PRODUCT
        number += pow(65537, chance.getrandbits(200), _PRODUCT)
        if number.bit_length() == bits and pow(2, number - 1, number) == 1:
            return number


def test_key_of_infineon_s_library_is_found() -> None:
    chance = random.Random(4711)
    modulus = _prime(chance, 512) * _prime(chance, 512)
    assert is_roca(_spki(rsa.RSAPublicNumbers(65537, modulus).public_key()))


def test_key_of_another_library_is_not_found() -> None:
    assert not is_roca(_spki(rsa.generate_private_key(65537, 2048).public_key()))
    assert not is_roca(_spki(ec.generate_private_key(ec.SECP256R1()).public_key()))


def test_weak_keys_of_a_tpm_are_named() -> None:
    chance = random.Random(4712)
    weak = _spki(rsa.RSAPublicNumbers(65537, _prime(chance, 512) * _prime(chance, 512)).public_key())
    good = _spki(rsa.generate_private_key(65537, 2048).public_key())
    curve = _spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    subjects = [text.partition(" can be computed")[0] for text in weaknesses_of_tpm(weak, weak, "IFX")]
    assert subjects == ["The key", "The endorsement key"]
    assert weaknesses_of_tpm(good, good, "IFX") == ()
    assert weaknesses_of_tpm(curve, curve, "STM") == ()
    assert "EUCLEAK" in weaknesses_of_tpm(curve, good, "IFX")[0]
