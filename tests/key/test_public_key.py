"""Public keys: verified signatures, plain forms and names of kinds, compared with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.errors import CertificateError, UnsupportedKeyError
from hwsigner.key import HashName
from hwsigner.key import public_key as public_keys
from hwsigner.key.public_key import kind_of, plain_public_key, verify

KEYS: dict[str, Any] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "ML-DSA-44": mldsa.MLDSA44PrivateKey.generate(),
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate(),
    "ML-DSA-87": mldsa.MLDSA87PrivateKey.generate(),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
def test_only_the_keys_signature_of_the_message_verifies(kind: str, hash_name: HashName) -> None:
    key = KEYS[kind]
    public_key = spki_of(key)
    signature = sign(key, b"message", hash_name)
    assert verify(public_key, b"message", signature=signature, hash=hash_name)
    assert not verify(public_key, b"massage", signature=signature, hash=hash_name)
    changed = signature[:-1] + bytes([signature[-1] ^ 1])
    assert not verify(public_key, b"message", signature=changed, hash=hash_name)
    assert not verify(public_key, b"message", signature=b"", hash=hash_name)
    other: HashName = "sha512" if hash_name != "sha512" else "sha256"
    assert verify(public_key, b"message", signature=signature, hash=other) == kind.startswith("ML-DSA")


@pytest.mark.parametrize("kind", KEYS)
def test_plain_public_key_is_what_openssl_writes(kind: str, tmp_path: Path) -> None:
    spki = spki_of(KEYS[kind])
    plain = plain_public_key(spki)
    if kind == "RSA":
        (tmp_path / "key.der").write_bytes(spki)
        form = ["-pubin", "-inform", "DER", "-in", "key.der", "-RSAPublicKey_out", "-outform", "DER"]
        assert plain == openssl(tmp_path, "rsa", *form)
    else:
        # The others' plain form ends a SubjectPublicKeyInfo as a BIT STRING without unused bits.
        assert spki.endswith(b"\0" + plain)
        assert len(spki) - len(plain) < 30


def test_plain_public_key_of_an_unsupported_kind_is_an_error() -> None:
    with pytest.raises(CertificateError):
        plain_public_key(spki_of(ed25519.Ed25519PrivateKey.generate()))


@pytest.mark.parametrize("lacks", [False, True])
def test_public_key_that_cryptography_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch, lacks: bool) -> None:
    """A token may show a damaged one, and the OpenSSL of cryptography may have no ML-DSA."""
    public_key = spki_of(KEYS["ML-DSA-44"])

    def lack(_: bytes) -> None:
        raise UnsupportedAlgorithm("ML-DSA is not supported")

    if lacks:
        monkeypatch.setattr(public_keys, "load_der_public_key", lack)
    for use in (plain_public_key, lambda spki: verify(spki, b"message", signature=b"")):
        with pytest.raises(UnsupportedKeyError, match="damaged, or of a kind that the OpenSSL"):
            use(public_key if lacks else public_key[:-1])


def test_kind_names_algorithm_and_size() -> None:
    named = {kind: kind_of(spki_of(key)) for kind, key in KEYS.items()}
    assert named.pop("RSA") == "RSA 2048"
    assert named == {kind: f"EC {kind}" if kind.startswith("P") else kind for kind in named}
    assert kind_of(spki_of(ec.generate_private_key(ec.SECP256K1()))) == "EC secp256k1"
    assert kind_of(spki_of(ed25519.Ed25519PrivateKey.generate())) == "Ed25519"


@given(st.binary(max_size=100))
def test_kind_of_junk_is_none(junk: bytes) -> None:
    assert kind_of(junk) is None


def spki_of(key: Any) -> bytes:
    der: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def sign(key: Any, message: bytes, hash_name: HashName) -> bytes:
    digest = getattr(hashes, hash_name.upper())()
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), digest)
    signature: bytes = key.sign(message, ec.ECDSA(digest)) if hasattr(key, "curve") else key.sign(message)
    return signature


def openssl(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True).stdout
