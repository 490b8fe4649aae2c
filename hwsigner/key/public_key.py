"""Public keys as DER SubjectPublicKeyInfo (RFC 5280, 4.1): verify signatures, and name the kind of key."""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hwsigner.errors import CertificateError, UnsupportedKeyError
from hwsigner.key import SUPPORTED_KEYS, HashName

MLDSA_KEYS = (mldsa.MLDSA44PublicKey, mldsa.MLDSA65PublicKey, mldsa.MLDSA87PublicKey)
HASHES: dict[HashName, type[HashAlgorithm]] = {"sha256": SHA256, "sha384": SHA384, "sha512": SHA512}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def verify(public_key: bytes, message: bytes, *, signature: bytes, hash: HashName = "sha256") -> bool:
    """Return whether a key, as DER SubjectPublicKeyInfo, made a signature in the form of `Key.sign`.

    A key that can't be read, or of a kind that cryptography lacks, is an UnsupportedKeyError.
    """
    key = _loaded(public_key)
    digest = HASHES[hash]()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(digest))
        elif isinstance(key, MLDSA_KEYS):
            key.verify(signature, message)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def plain_public_key(public_key: bytes) -> bytes:
    """Return the key in a DER SubjectPublicKeyInfo in its own plain form.

    EC: the uncompressed point (X9.62). RSA: RSAPublicKey in DER (RFC 8017, A.1.1). ML-DSA: the raw key. A kind that the
    service does not accept is a CertificateError.
    """
    key = _loaded(public_key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    if isinstance(key, MLDSA_KEYS):
        return key.public_bytes_raw()
    raise CertificateError("a public key is of a kind that the service does not accept", f"Use {SUPPORTED_KEYS}")


def kind_of(public_key: bytes) -> str | None:
    """Return the kind of key, such as `EC P-256`, `RSA 2048` or `ML-DSA-65`; None if it can't be read."""
    try:
        key: Any = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    name = type(key).__name__.removesuffix("PublicKey")
    return name.replace("MLDSA", "ML-DSA-") if isinstance(key, MLDSA_KEYS) else name


def to_pem(public_key: bytes) -> str:
    """Return a DER SubjectPublicKeyInfo as PEM (RFC 7468, 13)."""
    return load_der_public_key(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _loaded(public_key: bytes) -> Any:
    try:
        return load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        what = "damaged, or of a kind that the OpenSSL of the Python library cryptography lacks"
        raise UnsupportedKeyError(f"a public key is {what}", "Use another key, or cryptography from PyPI") from error
