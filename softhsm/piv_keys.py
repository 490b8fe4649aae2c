"""Private keys on a card: import from raw numbers, and use (SP 800-73-4, part 2, appendix A)."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from softhsm import apdu, tlv
from softhsm.piv_state import CURVES, RSA_SIZES, PrivateKey

_EXPONENT = 65537
_FIRST_WITH_LONG_RSA = (5, 7, 0)


def require_supported(algorithm: int, firmware: tuple[int, int, int]) -> None:
    """Refuse an algorithm that the card does not support."""
    is_long = RSA_SIZES.get(algorithm, 0) > 2048
    if algorithm not in CURVES | RSA_SIZES or (is_long and firmware < _FIRST_WITH_LONG_RSA):
        raise apdu.StatusError(apdu.WRONG_DATA)


def generate(algorithm: int) -> PrivateKey:
    """Generate a key of a supported algorithm."""
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm])
    return rsa.generate_private_key(_EXPONENT, RSA_SIZES[algorithm])


def read(algorithm: int, values: dict[int, bytes]) -> PrivateKey:
    """Return the key in an IMPORT KEY command: a scalar (tag 06), or the primes (01, 02) for the exponent 65537."""
    try:
        if algorithm in CURVES:
            return ec.derive_private_key(int.from_bytes(values[0x06]), CURVES[algorithm])
        return _from_primes(*(int.from_bytes(values[tag]) for tag in (0x01, 0x02)))
    except (KeyError, ValueError):
        raise apdu.StatusError(apdu.WRONG_DATA) from None


def _from_primes(p: int, q: int) -> rsa.RSAPrivateKey:
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(_EXPONENT, p * q)
    ).private_key()


def public_key(key: PrivateKey) -> bytes:
    """Return the content of GENERATE's response: a point (86), or modulus and exponent (81, 82)."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return tlv.encode(0x81, numbers.n.to_bytes(key.key_size // 8)) + tlv.encode(0x82, numbers.e.to_bytes(3))
    return tlv.encode(0x86, key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def use(key: PrivateKey, data: bytes) -> bytes:
    """Return the raw RSA result for a block as long as the modulus, or a DER ECDSA signature of a digest."""
    if isinstance(key, rsa.RSAPrivateKey):
        return _raw_rsa(key, data)
    algorithm = hashes.SHA256() if key.key_size == 256 else hashes.SHA384()
    if len(data) > algorithm.digest_size:
        raise apdu.StatusError(apdu.WRONG_DATA)
    return key.sign(data.rjust(algorithm.digest_size, b"\0"), ec.ECDSA(Prehashed(algorithm)))


def agree(key: PrivateKey, point: bytes) -> bytes:
    """Return the ECDH secret with an uncompressed point."""
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise apdu.StatusError(apdu.WRONG_DATA)
    try:
        return key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(key.curve, point))
    except ValueError:
        raise apdu.StatusError(apdu.WRONG_DATA) from None


def _raw_rsa(key: rsa.RSAPrivateKey, block: bytes) -> bytes:
    numbers = key.private_numbers()
    value = int.from_bytes(block)
    if len(block) != key.key_size // 8 or value >= numbers.public_numbers.n:
        raise apdu.StatusError(apdu.WRONG_DATA)
    # cryptography has no unpadded RSA, so use the Chinese remainder theorem (RFC 8017, 5.2.1).
    first, second = pow(value, numbers.dmp1, numbers.p), pow(value, numbers.dmq1, numbers.q)
    return (second + numbers.q * ((first - second) * numbers.iqmp % numbers.p)).to_bytes(len(block))
