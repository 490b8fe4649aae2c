"""Keys of chips that are known to be weak."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

_GENERATOR = 65537
_PRIMES: tuple[int, ...] = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
_PRIMES += (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167)


def is_roca(public_key: bytes) -> bool:
    """Return whether an RSA key has the fingerprint of CVE-2017-15361 (ROCA), of Infineon's library before 2017.

    Its primes are k * M + (65537 ** a mod M), where M is the product of the first primes. So the modulus is a power of
    65537 modulo each of them. Of other keys, one in 2 ** 27 is.

    Args:
        public_key: the DER SubjectPublicKeyInfo.
    """
    key = load_der_public_key(public_key)
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    modulus = key.public_numbers().n
    return all(modulus % prime in _powers(prime) for prime in _PRIMES)


def _powers(prime: int) -> set[int]:
    """Return the powers of 65537 modulo a prime."""
    return {pow(_GENERATOR, exponent, prime) for exponent in range(prime - 1)}
