"""Keys of chips that are known to be weak."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

_GENERATOR = 65537
_LEAST_BITS = 2048
_PRIMES: tuple[int, ...] = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
_PRIMES += (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167)


def is_roca(public_key: bytes) -> bool:
    """Return whether an RSA key has the fingerprint of CVE-2017-15361 (ROCA), of Infineon's library before 2017.

    Its primes are k * M + (65537 ** a mod M), where M is the product of the first primes. So the modulus is a power of
    65537 modulo each of them. One in 2 ** 27 other keys has this property too. The key is DER SubjectPublicKeyInfo, as
    in this whole module.
    """
    key = load_der_public_key(public_key)
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    modulus = key.public_numbers().n
    return all(
        modulus % prime in {pow(_GENERATOR, exponent, prime) for exponent in range(prime - 1)} for prime in _PRIMES
    )


def is_short(public_key: bytes) -> bool:
    """Return whether an RSA key has less than 2,048 bits, which the service does not take and which may be factored."""
    key = load_der_public_key(public_key)
    return isinstance(key, rsa.RSAPublicKey) and key.key_size < _LEAST_BITS


def weaknesses_of_tpm(public_key: bytes, endorsement_key: bytes, vendor: str) -> tuple[str, ...]:
    """Return what is known to be wrong with a key that a TPM generated, a sentence each.

    The vendor is its letters in TCG's registry; empty if they are unknown.
    """
    remedy = "Update the TPM's firmware and make new keys"
    found = [
        f"The {name} can be computed from its public key (ROCA, CVE-2017-15361). {remedy}"
        for name, key in (("key", public_key), ("endorsement key", endorsement_key))
        if is_roca(key)
    ]
    if vendor == "IFX" and isinstance(load_der_public_key(public_key), ec.EllipticCurvePublicKey):
        found.append(
            "A laboratory that has the TPM for a while may copy the key: Infineon's chips have the side channel of "
            "EUCLEAK, unless their firmware has a fix. RSA keys are not concerned"
        )
    return tuple(found)


def is_roca_of_yubikey(public_key: bytes, firmware: tuple[int, ...]) -> bool:
    """Return whether a key that a YubiKey generated is an RSA key of ROCA, by its fingerprint or the firmware."""
    is_rsa = isinstance(load_der_public_key(public_key), rsa.RSAPublicKey)
    return is_rsa and ((4, 2, 6) <= firmware < (4, 3, 5) or is_roca(public_key))


def weaknesses_of_yubikey(public_key: bytes, firmware: tuple[int, ...], *, is_bio: bool) -> tuple[str, ...]:
    """Return what is known to be wrong with a PIV key that a YubiKey generated, a sentence each.

    A YubiKey that `is_bio` has a fingerprint reader.
    """
    is_ec = isinstance(load_der_public_key(public_key), ec.EllipticCurvePublicKey)
    version = ".".join(map(str, firmware))
    found = []
    if is_roca_of_yubikey(public_key, firmware):
        found.append(
            f"The RSA key can be computed from its public key: firmware {version} made it with the library of ROCA "
            "(YSA-2017-01, CVE-2017-15361). Do not use it"
        )
    if firmware in ((4, 4, 2), (4, 4, 4)):
        made = "a few signatures can reveal the key" if is_ec else "the key may have been made with them"
        found.append(f"After it is plugged in, firmware {version} has weak random numbers: {made} (YSA-2019-02)")
    if is_ec and firmware < ((5, 7, 2) if is_bio else (5, 7, 0)):
        found.append(
            f"A laboratory that has the YubiKey for a while can copy the key: firmware {version} has the side channel "
            "of EUCLEAK (YSA-2024-03). RSA keys are not concerned"
        )
    return tuple(found)
