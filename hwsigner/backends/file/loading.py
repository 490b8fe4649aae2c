"""From the blocks of a file to keys and certificates.

Read by cryptography; the few forms of keys that it lacks are read by the system's libcrypto, imported only then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key, load_pem_private_key

from hwsigner.backends.pem import BER_SEQUENCE, Block, first_element
from hwsigner.errors import CertificateError, PinError, UnsupportedKeyError, WrongPinError
from hwsigner.key import SUPPORTED_KEYS
from hwsigner.pins import PinRequest, PinSource
from hwsigner.uri import KeyURI

if TYPE_CHECKING:
    from hwsigner.backends.file.libcrypto import EvpKey

SUPPORTED = f"SigV4-X509 has {SUPPORTED_KEYS}"
_LEGACY_CIPHER = re.compile(
    rb"^DEK-Info: (AES-(128|256)-CBC,[0-9A-Fa-f]{32}|DES-EDE3-CBC,[0-9A-Fa-f]{16})$", re.MULTILINE
)
_LOAD_ERRORS = (ValueError, TypeError, UnsupportedAlgorithm)


class OtherMldsaKey(NamedTuple):
    """An ML-DSA key in a form that cryptography does not load: its DER SubjectPublicKeyInfo, and what signs with it."""

    public_key: bytes
    sign: Callable[[bytes], bytes]


LoadedKey: TypeAlias = PrivateKeyTypes | OtherMldsaKey


class Bundle(NamedTuple):
    """What a PKCS #12 file holds: its key, if any, and its certificates as DER, the key's own first."""

    key: LoadedKey | None
    certificates: list[bytes]


def load_key(uri: KeyURI, block: Block, pins: PinSource) -> LoadedKey:
    """Load a PKCS #1, SEC1 or PKCS #8 key, asking for its passphrase if it is encrypted.

    Raises:
        UnsupportedKeyError: it is damaged, or of a kind that is not known.
        PinError: the passphrase is missing or wrong.
    """
    passphrase = _encoded(uri, pins.get(uri, _request(uri))) if block.encrypted else None
    try:
        return _by_cryptography(block, passphrase)
    except _LOAD_ERRORS as error:
        if "Incorrect password" in str(error):
            raise _wrong_passphrase(uri) from error
    from hwsigner.backends.file import libcrypto as _libcrypto

    key = _libcrypto.load_key(uri.name, block.pem, passphrase or b"")
    if key is not None:
        return _converted(uri, key)
    if block.encrypted:
        raise _wrong_passphrase(uri)
    raise UnsupportedKeyError(f"the {block.label} in {uri.name} is damaged, or of a kind that is not known", SUPPORTED)


def load_pkcs12(uri: KeyURI, block: Block, pins: PinSource) -> Bundle:
    """Load a PKCS #12 file, without a passphrase if that is possible, else with it.

    Raises:
        UnsupportedKeyError: its key is of a kind that can't be used.
        PinError: the passphrase is missing or wrong.
    """
    bundle = _pkcs12(uri, block.data, b"")
    if bundle is None:
        passphrase = pins.get(uri, _request(uri))
        bundle = _pkcs12(uri, block.data, _encoded(uri, passphrase))
        if bundle is None:
            raise _wrong_passphrase(uri)
        pins.remember(_request(uri), passphrase)
    return bundle


def load_certificate(path: str, block: Block) -> bytes:
    """Return the certificate of a block as DER, without the trust settings that OpenSSL may have put after it.

    Raises:
        CertificateError: it is damaged.
    """
    from cryptography.x509 import InvalidVersion, load_der_x509_certificate

    try:
        der = first_element(block.data)
        load_der_x509_certificate(der)
    except (*_LOAD_ERRORS, InvalidVersion) as error:
        raise CertificateError(f"a certificate in {path} can't be read: {error}", "It may be damaged") from error
    return der


def _request(uri: KeyURI) -> PinRequest:
    return PinRequest("passphrase", uri.name)


def _encoded(uri: KeyURI, passphrase: str) -> bytes:
    """Return a passphrase as bytes; what was not UTF-8 on the command line is as it was there."""
    try:
        return passphrase.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Not chained: the exception would carry the passphrase.
        raise PinError(
            f"the passphrase for {uri.name} is not Unicode text", "Give it without lone surrogates"
        ) from None


def _wrong_passphrase(uri: KeyURI) -> WrongPinError:
    return WrongPinError(f"wrong passphrase for {uri.name}", "Check it; if it is right, the file is damaged")


def _by_cryptography(block: Block, passphrase: bytes | None) -> PrivateKeyTypes:
    # Validating an RSA key takes 30 ms; every signature is verified with the certificate's key instead.
    if not block.headers:
        return load_der_private_key(block.data, passphrase, unsafe_skip_rsa_key_validation=True)
    # cryptography 50 panics, and says so on stderr, when an initialisation vector is too short.
    if not _LEGACY_CIPHER.search(block.headers):
        raise UnsupportedAlgorithm("a cipher that cryptography lacks")
    return load_pem_private_key(block.pem, passphrase, unsafe_skip_rsa_key_validation=True)


def _converted(uri: KeyURI, key: EvpKey) -> LoadedKey:
    """Return a key of libcrypto as one of cryptography, which checks it; ML-DSA, which that refused, as it is."""
    if key.kind.startswith("ML-DSA-"):
        return OtherMldsaKey(key.public_key(), key.sign)
    try:
        return load_der_private_key(key.pkcs8(), None, unsafe_skip_rsa_key_validation=True)
    except _LOAD_ERRORS as error:
        kind = "RSA key that has more than two primes or is damaged" if key.kind == "RSA" else f"key of type {key.kind}"
        raise UnsupportedKeyError(f"{uri.name} holds a private {kind}", SUPPORTED) from error


def _pkcs12(uri: KeyURI, data: bytes, passphrase: bytes) -> Bundle | None:
    """Return what a PKCS #12 file holds, or None when the passphrase is wrong."""
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12 as load
    from cryptography.x509 import InvalidVersion

    if data[:2] == BER_SEQUENCE:
        return _pkcs12_by_libcrypto(uri, data, passphrase)
    try:
        bundle = load(data, passphrase)
    except (*_LOAD_ERRORS, InvalidVersion) as error:
        return None if "Invalid password" in str(error) else _pkcs12_by_libcrypto(uri, data, passphrase)
    certificates = [bundle.cert, *bundle.additional_certs] if bundle.cert else bundle.additional_certs
    return Bundle(bundle.key, [c.certificate.public_bytes(Encoding.DER) for c in certificates])


def _pkcs12_by_libcrypto(uri: KeyURI, data: bytes, passphrase: bytes) -> Bundle | None:
    from hwsigner.backends.file import libcrypto as _libcrypto

    bundle = _libcrypto.load_pkcs12(uri.name, data, passphrase)
    if bundle is None:
        return None
    key, certificates = bundle
    checked = [load_certificate(uri.name, Block("CERTIFICATE", der)) for der in certificates]
    return Bundle(_converted(uri, key) if key else None, checked)
