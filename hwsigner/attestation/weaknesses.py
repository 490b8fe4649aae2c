"""Keys that are weak because of the library or firmware that made them."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

# The primes up to 167, of which a product is in every prime that the library of ROCA makes for keys of any length.
_PRIMES = [number for number in range(3, 168, 2) if all(number % divisor for divisor in range(3, number, 2))]

ROCA = (
    "The RSA key was made by a library of Infineon whose private keys can be computed from the public ones "
    "(ROCA, CVE-2017-15361): do not certify it"
)


def find_weaknesses(public_key: bytes) -> tuple[str, ...]:
    """Return what is known to be wrong with a public key, a sentence each.

    Args:
        public_key: its DER SubjectPublicKeyInfo.

    Raises:
        ValueError, UnsupportedAlgorithm: it can't be read.
    """
    key = load_der_public_key(public_key)
    return (ROCA,) if isinstance(key, rsa.RSAPublicKey) and _is_roca(key.public_numbers().n) else ()


def find_weaknesses_of_yubikey(public_key: bytes, firmware: tuple[int, ...], *, is_bio: bool) -> tuple[str, ...]:
    """Return what is known to be wrong with a PIV key that was generated on a YubiKey, a sentence each.

    Args:
        public_key: its DER SubjectPublicKeyInfo.
        firmware: the firmware version.
        is_bio: whether the YubiKey has a fingerprint reader.

    Raises:
        ValueError, UnsupportedAlgorithm: the public key can't be read.
    """
    key, version = load_der_public_key(public_key), ".".join(map(str, firmware))
    found = list(find_weaknesses(public_key))
    if isinstance(key, rsa.RSAPublicKey) and (4, 2, 6) <= firmware < (4, 3, 5) and not found:
        found.append(f"YubiKeys with firmware {version} make weak RSA keys (YSA-2017-01): do not certify it")
    if firmware in ((4, 4, 2), (4, 4, 4)):
        what = "signatures, which reveal the key," if isinstance(key, ec.EllipticCurvePublicKey) else "RSA keys"
        found.append(f"YubiKeys with firmware {version} make {what} with too little randomness (YSA-2019-02)")
    if isinstance(key, ec.EllipticCurvePublicKey) and firmware < ((5, 7, 2) if is_bio else (5, 7, 0)):
        found.append(
            f"Somebody who has the YubiKey and a laboratory can copy the key: firmware {version} has the side channel "
            "of EUCLEAK (YSA-2024-03), which RSA keys do not have"
        )
    return tuple(found)


def _is_roca(modulus: int) -> bool:
    """Return whether a modulus is a power of 65537 modulo each small prime, as one in 2^27 others is."""
    return all(any(pow(65537, power, prime) == modulus % prime for power in range(prime)) for prime in _PRIMES)
