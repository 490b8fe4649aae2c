"""TPM2_MakeCredential without a TPM: a secret that only the chip of an endorsement key can open (part 1, 24 and B, C).

The chip opens it only while it holds the object with the given Name, so both are in one chip.
"""

from __future__ import annotations

import hmac
import os
import struct

from cryptography.hazmat.decrepit.ciphers import modes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import HashAlgorithm
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from hwsigner.attestation.structures import AES, CFB, HASHES, Public
from hwsigner.errors import AttestationError

_KEY_BITS = (128, 192, 256)


def make_credential(ek: Public, name: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Encrypt a secret to an endorsement key, for a chip that also holds another object.

    The name is the object's TPM Name. The secret may be as long as the digest of the endorsement key's Name. The result
    is credentialBlob, a TPM2B_ID_OBJECT, and secret, a TPM2B_ENCRYPTED_SECRET (part 3, 12.6). An endorsement key that
    is not a storage key with AES in CFB mode is an AttestationError.
    """
    cipher, bits, mode = ek.cipher
    if (cipher, mode) != (AES, CFB) or bits not in _KEY_BITS:
        raise AttestationError("the endorsement key does not use AES in CFB mode", "Use a standard endorsement key")
    digest = HASHES[ek.name_hash]()
    seed, encrypted_seed = _seed(ek, digest)
    key = _kdfa(digest, seed, b"STORAGE", name, bits)
    encryptor = Cipher(algorithms.AES(key), modes.CFB(bytes(16))).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    mac_key = _kdfa(digest, seed, b"INTEGRITY", b"", 8 * len(seed))
    mac = hmac.digest(mac_key, identity + name, digest.name)
    return _sized(_sized(mac) + identity), _sized(encrypted_seed)


def _kdfa(digest: HashAlgorithm, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Derive a key: KDFa of part 1, 11.4.10.2, with one context."""
    counter, place = Mode.CounterMode, CounterLocation.BeforeFixed
    return KBKDFHMAC(digest, counter, bits // 8, 4, 4, place, label, context, None).derive(key)


def _seed(ek: Public, digest: HashAlgorithm) -> tuple[bytes, bytes]:
    """Return a new seed, and the same encrypted for the chip."""
    if isinstance(ek.key, rsa.RSAPublicKey):
        seed = os.urandom(digest.digest_size)
        return seed, ek.key.encrypt(seed, padding.OAEP(padding.MGF1(digest), digest, b"IDENTITY\0"))
    size = (ek.key.curve.key_size + 7) // 8
    ephemeral = ec.generate_private_key(ek.key.curve)
    x, y = _coordinates(ephemeral.public_key(), size)
    shared = ephemeral.exchange(ec.ECDH(), ek.key)
    fixed = b"IDENTITY\0" + x + _coordinates(ek.key, size)[0]
    seed = ConcatKDFHash(digest, digest.digest_size, fixed).derive(shared)  # KDFe of part 1, 11.4.10.3.
    return seed, _sized(x) + _sized(y)


def _coordinates(key: ec.EllipticCurvePublicKey, size: int) -> tuple[bytes, bytes]:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(size), numbers.y.to_bytes(size)


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
