"""Keys and certificates in files, and in what a process inherits: PEM, DER and PKCS #12."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.file.loading import (
    RSA_PSS,
    SUPPORTED,
    load_certificate,
    load_key,
    load_pkcs7,
    load_pkcs12,
)
from hwsigner.backends.pem import PKCS7, PKCS12, Block, Contents, pkcs12_keys, read_contents
from hwsigner.errors import (
    AmbiguousKeyError,
    CertificateError,
    HwsignerError,
    KeyNotFoundError,
    SigningKeyError,
    UnsafeKeyWarning,
    UnsupportedKeyError,
    UsageError,
)
from hwsigner.key import (
    ECDSA,
    EXPONENT_HINT,
    MLDSA,
    RSA,
    RSA_BITS,
    Algorithm,
    FoundCertificate,
    HashName,
    Key,
    is_rsa_exponent,
    unknown_hash,
)

if TYPE_CHECKING:
    from hwsigner.backends.file.loading import LoadedKey

_CERTIFICATES = frozenset({"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"})
_PKCS7 = frozenset({PKCS7, "PKCS #7 SIGNED DATA", "CMS"})
_PRIVATE_KEYS = frozenset(
    {"PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY", PKCS12}
)
_OTHER_KEY_HINTS = {
    "OPENSSH PRIVATE KEY": "Convert a copy: ssh-keygen -p -m PKCS8 -f FILE",
    "TSS2 PRIVATE KEY": "Name it as tpm2:path=FILE, in its PEM form",
}
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_RSASSA_PSS = bytes.fromhex("06092a864886f70d01010a")
_HASHES: dict[HashName, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}

Sign: TypeAlias = Callable[[bytes, HashName], bytes]


class FileKey(Key):
    """A private key, read from a file into memory."""

    def __init__(self, path: str, algorithm: Algorithm, public_key: bytes, sign: Sign) -> None:
        self._path = path
        self._algorithm = algorithm
        self._public_key = public_key
        self._sign: Sign | None = sign

    def __repr__(self) -> str:
        return f"FileKey({self._path!r})"

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm that the key signs for."""
        return self._algorithm

    def public_key(self) -> bytes:
        """Return the public key as a DER SubjectPublicKeyInfo (RFC 5280, 4.1)."""
        return self._public_key

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message; see `Key.sign`."""
        sign = self._sign
        if sign is None:
            raise SigningKeyError(f"the key of {self._path} is closed", "Open it again")
        if hash not in _HASHES:
            raise unknown_hash(hash)
        try:
            return sign(message, hash)
        except ValueError as error:
            raise SigningKeyError(f"the key of {self._path} can't sign: {error}", "Check if it is damaged") from error

    def close(self) -> None:
        """Drop the key. Python can't overwrite its memory."""
        self._sign = None


def open_key(uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> FileKey:
    """Open the private key in a file, variable or open file: PKCS #1, SEC1, PKCS #8 or PKCS #12, encrypted or not.

    A file with more than one key is an AmbiguousKeyError; the public key does not choose among them.
    """
    uri.require_known({"path", "name"}, set())
    path = uri.name
    contents = _contents(uri, KeyNotFoundError)
    block = private_key_block(path, contents)
    if block.label == PKCS12:
        loaded = load_pkcs12(uri, block, pins).key
        if loaded is None:
            raise KeyNotFoundError(f"{path} is a PKCS #12 file without a private key", "Export it again with the key")
    else:
        loaded = load_key(uri, block, pins)
    key = _usable(path, loaded)
    for warning in _exposures(path, contents.status):
        warnings.warn(warning, stacklevel=3)
    return key


def find_certificates(uri: KeyURI, pins: PinSource) -> list[FoundCertificate]:
    """Return the certificates in a file, in its order: PEM, DER, PKCS #7 or PKCS #12. They are not parsed.

    A file without a certificate is a CertificateError.
    """
    uri.require_known({"path", "name"}, set())
    path = uri.name
    contents = _contents(uri, CertificateError)
    found: list[bytes] = []
    for block in contents.blocks:
        if block.label in _CERTIFICATES:
            found.append(load_certificate(block))
        elif block.label == PKCS12:
            found += load_pkcs12(uri, block, pins).certificates
        elif block.label in _PKCS7:
            found += load_pkcs7(block)
    if not found:
        hint = "Name the file with the certificate"
        if any(block.label in _PKCS7 for block in contents.blocks):
            hint = f"Extract its certificates: openssl pkcs7 -print_certs -in {path} (if it is DER, add -inform DER)"
        raise CertificateError(f"{path} has {contents} and no certificate", hint)
    return [FoundCertificate(der, uri.name) for der in found]


def check_modules(uri: KeyURI) -> None:
    """Refuse a URI from elsewhere that names a variable or an open file, as reading it takes it from this process."""
    if uri.scheme != "file":
        problem = f"{uri.name} is of this process, and a key URI from elsewhere must not name it"
        raise UsageError(problem, "A program allows it with allow_modules=True")


def _contents(uri: KeyURI, error: type[HwsignerError]) -> Contents:
    if uri.scheme == "file":
        return read_contents(uri.file, error)
    from hwsigner.backends.file.inherited import read_inherited

    return read_inherited(uri, error)


def _exposures(path: str, status: os.stat_result | None) -> Iterable[UnsafeKeyWarning]:
    if status is None or (not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and status.st_uid in (0, os.geteuid())):
        return ()
    from hwsigner._system.users import key_exposures

    return key_exposures(path, status)


def private_key_block(path: str, contents: Contents) -> Block:
    """Return the block with the private key."""
    keys = [b for b in contents.blocks if b.label.endswith("PRIVATE KEY") or b.label == PKCS12]
    if not keys:
        raise KeyNotFoundError(f"{path} has {contents} and no private key", "Name the file with the private key")
    inside = pkcs12_keys(keys[0].data) if keys[0].label == PKCS12 else []
    if (number := max(len(keys), len(inside))) > 1:
        raise AmbiguousKeyError(f"{path} has {number} private keys", "Keep one key in the file")
    if keys[0].label not in _PRIVATE_KEYS:
        hint = _OTHER_KEY_HINTS.get(keys[0].label, "Convert it to PKCS #8")
        raise UnsupportedKeyError(f"{path} has a private key in the form {keys[0].label}, which is not supported", hint)
    if any(key.label == "PRIVATE KEY" and _RSASSA_PSS in key.data[:32] for key in (*keys, *inside)):
        raise _rsa_pss(path)
    return keys[0]


def _usable(path: str, loaded: LoadedKey) -> FileKey:
    """Return a loaded key as one that signs for SigV4-X509; raise UnsupportedKeyError if it can't."""
    if isinstance(loaded, rsa.RSAPrivateKey):
        if loaded.key_size not in RSA_BITS:
            raise UnsupportedKeyError(f"{path} has an RSA key of {loaded.key_size} bits", SUPPORTED)
        exponent = loaded.public_key().public_numbers().e
        if not is_rsa_exponent(exponent):
            raise UnsupportedKeyError(f"{path} has an RSA key with the public exponent {exponent}", EXPONENT_HINT)
        return FileKey(
            path, RSA, _spki(loaded), lambda message, name: loaded.sign(message, padding.PKCS1v15(), _HASHES[name])
        )
    if isinstance(loaded, ec.EllipticCurvePrivateKey):
        if loaded.curve.name not in _CURVES:
            raise UnsupportedKeyError(f"{path} has an EC key on the curve {loaded.curve.name}", SUPPORTED)
        return FileKey(path, ECDSA, _spki(loaded), lambda message, name: loaded.sign(message, ec.ECDSA(_HASHES[name])))
    if isinstance(loaded, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey):
        return FileKey(path, MLDSA, _spki(loaded), lambda message, _: loaded.sign(message))
    from hwsigner.backends.file.libcrypto import EvpKey

    if isinstance(loaded, EvpKey):
        if loaded.kind == RSA_PSS:
            raise _rsa_pss(path)
        return FileKey(path, MLDSA, loaded.public_key(), lambda message, _: loaded.sign(message))
    kind = type(loaded).__name__.removesuffix("PrivateKey")
    raise UnsupportedKeyError(f"{path} has a private key of type {kind}", SUPPORTED)


def _rsa_pss(path: str) -> UnsupportedKeyError:
    return UnsupportedKeyError(f"{path} has an RSA-PSS key", SUPPORTED)


def _spki(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


if TYPE_CHECKING:
    from hwsigner.backends import file
    from hwsigner.key import ChecksModules, FindsCertificates, OpensKeys

    class _Backend(OpensKeys, FindsCertificates, ChecksModules, Protocol): ...

    _: _Backend = file
