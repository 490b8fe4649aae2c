"""From the blocks of a file to keys and certificates.

cryptography reads them. libcrypto reads what cryptography can't, such as some ML-DSA keys; only then it is imported.
"""

from __future__ import annotations

import re
import warnings
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key, load_pem_private_key

from hwsigner._pins import FoundPin, PinRequest, PinSource, use_until_right
from hwsigner._uri import KeyURI
from hwsigner.backends.pem import Block, first_element, pkcs12_keys
from hwsigner.errors import PinError, UnsupportedKeyError, WrongPinError
from hwsigner.key import SUPPORTED_KEYS

if TYPE_CHECKING:
    from hwsigner.backends.file.libcrypto import EvpKey

    LoadedKey: TypeAlias = PrivateKeyTypes | EvpKey

SUPPORTED = f"SigV4-X509 has {SUPPORTED_KEYS}"
RSA_PSS = "RSA-PSS"
_ENCRYPTED = "ENCRYPTED PRIVATE KEY"
_LEGACY_CIPHER = rb"^DEK-Info: (AES-(128|256)-CBC,[0-9A-Fa-f]{32}|DES-EDE3-CBC,[0-9A-Fa-f]{16})$"
_BER_SEQUENCE = b"\x30\x80"  # Of indefinite length.
_LOAD_ERRORS = (ValueError, TypeError, UnsupportedAlgorithm)


class Bundle:
    """The content of a PKCS #12 file: its key, if any, and its certificates as DER, the key's own first."""

    def __init__(self, key: LoadedKey | None, certificates: list[bytes]) -> None:
        self.key: Final = key
        self.certificates: Final = certificates


def load_key(uri: KeyURI, block: Block, pins: PinSource) -> LoadedKey:
    """Load a PKCS #1, SEC1 or PKCS #8 key, with its passphrase if it is encrypted."""
    if not block.encrypted:
        return _load_key(uri, block, None)
    return use_until_right(
        lambda state: pins.find(uri, passphrase_request(uri, state)),
        lambda found: _load_key(uri, block, encoded(uri, found.pin)),
    )


def _load_key(uri: KeyURI, block: Block, passphrase: bytes | None) -> LoadedKey:
    try:
        loaded = _by_cryptography(block, passphrase)
        return _of_its_kind(uri, loaded, block, passphrase or b"")
    except _LOAD_ERRORS as error:
        if "Incorrect password" in str(error):
            raise _wrong_passphrase(uri) from error
    from hwsigner.backends.file import libcrypto

    key = libcrypto.load_key(uri.name, block.pem, passphrase or b"")
    if key is not None:
        return _from_libcrypto(uri, key)
    if block.encrypted:
        raise _wrong_passphrase(uri)
    raise UnsupportedKeyError(f"the {block.label} in {uri.name} is damaged, or its kind is unknown", SUPPORTED)


def load_pkcs12(uri: KeyURI, block: Block, pins: PinSource) -> Bundle:
    """Load a PKCS #12 file, without a passphrase if possible."""
    bundle = _pkcs12(uri, block.data, b"")
    if bundle is not None:
        return bundle

    def load_with(found: FoundPin) -> Bundle:
        bundle = _pkcs12(uri, block.data, encoded(uri, found.pin))
        if bundle is None:
            raise _wrong_passphrase(uri)
        pins.remember(passphrase_request(uri), found.pin)
        return bundle

    return use_until_right(lambda state: pins.find(uri, passphrase_request(uri, state)), load_with)


def load_certificate(block: Block) -> bytes:
    """Return a block's certificate as DER, without OpenSSL's trust settings that may follow it.

    A damaged one is returned as it is: the parser of the chain reports it.
    """
    from cryptography.x509 import InvalidVersion, load_der_x509_certificate

    with suppress(*_LOAD_ERRORS, InvalidVersion):
        load_der_x509_certificate(block.data)
        return block.data
    with suppress(ValueError):
        return first_element(block.data)
    return block.data


def load_pkcs7(block: Block) -> list[bytes]:
    """Return the certificates of PKCS #7 data as DER; none if they can't be read."""
    from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates

    with suppress(*_LOAD_ERRORS), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # That BER, and certificates in any order, may be refused one day.
        return [one.public_bytes(Encoding.DER) for one in load_der_pkcs7_certificates(block.data)]
    return []


def passphrase_request(uri: KeyURI, state: str = "") -> PinRequest:
    """Return the question for the passphrase of a file."""
    return PinRequest("passphrase", uri.name, state)


def encoded(uri: KeyURI, passphrase: str) -> bytes:
    """Return a passphrase as bytes. Bytes on the command line that were not UTF-8 are unchanged."""
    try:
        return passphrase.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Not chained: the exception would carry the passphrase.
        raise PinError(f"the passphrase for {uri.name} is not Unicode text", "Remove its lone surrogates") from None


def _wrong_passphrase(uri: KeyURI) -> WrongPinError:
    error = WrongPinError(f"wrong passphrase for {uri.name}", "Check it; if it is right, the file is damaged")
    error.may_ask_again = True
    return error


def _of_its_kind(uri: KeyURI, loaded: PrivateKeyTypes, block: Block, passphrase: bytes) -> LoadedKey:
    """Return the key of a block. One of RSA-PSS, which cryptography takes for RSA, is libcrypto's, if that is there."""
    if block.label == _ENCRYPTED and isinstance(loaded, rsa.RSAPrivateKey):
        from hwsigner.backends.file import libcrypto

        with suppress(UnsupportedKeyError):
            key = libcrypto.load_key(uri.name, block.pem, passphrase)
            return key if key and key.kind == RSA_PSS else loaded
    return loaded


def _by_cryptography(block: Block, passphrase: bytes | None) -> PrivateKeyTypes:
    # Validating an RSA key takes 30 ms; instead, every signature is verified with the certificate's key.
    if not block.headers:
        return load_der_private_key(block.data, passphrase, unsafe_skip_rsa_key_validation=True)
    # cryptography 50 panics, with a message on stderr, if an initialisation vector is too short.
    if not re.search(_LEGACY_CIPHER, block.headers, re.MULTILINE):
        raise UnsupportedAlgorithm("a cipher that cryptography lacks")
    return load_pem_private_key(block.pem, passphrase, unsafe_skip_rsa_key_validation=True)


def _from_libcrypto(uri: KeyURI, key: EvpKey) -> LoadedKey:
    """Return a key that libcrypto loaded: its own if it is ML-DSA or RSA-PSS, else cryptography's."""
    if key.kind.startswith("ML-DSA-") or key.kind == RSA_PSS:
        return key
    with suppress(*_LOAD_ERRORS):
        return load_der_private_key(key.private_der(), None, unsafe_skip_rsa_key_validation=True)
    raise UnsupportedKeyError(
        f"{uri.name} has a private key of type {key.kind} in a form that is not supported",
        f"{SUPPORTED}; convert one of these with openssl pkey -in OLD -out NEW",
    )


def _pkcs12(uri: KeyURI, data: bytes, passphrase: bytes) -> Bundle | None:
    """Return the content of a PKCS #12 file, or None if the passphrase is wrong."""
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12 as load
    from cryptography.x509 import InvalidVersion

    try:
        with warnings.catch_warnings() if data[:2] == _BER_SEQUENCE else nullcontext():
            if data[:2] == _BER_SEQUENCE:
                warnings.simplefilter("ignore", UserWarning)  # That BER may be refused one day.
            bundle = load(data, passphrase)
    except (*_LOAD_ERRORS, InvalidVersion) as error:
        return None if "Invalid password" in str(error) else _pkcs12_by_libcrypto(uri, data, passphrase)
    certificates = [bundle.cert, *bundle.additional_certs] if bundle.cert else bundle.additional_certs
    keys = pkcs12_keys(data) if isinstance(bundle.key, rsa.RSAPrivateKey) else []
    key = _of_its_kind(uri, bundle.key, keys[0], passphrase) if bundle.key and keys else bundle.key
    return Bundle(key, [c.certificate.public_bytes(Encoding.DER) for c in certificates])


def _pkcs12_by_libcrypto(uri: KeyURI, data: bytes, passphrase: bytes) -> Bundle | None:
    """Read a file that cryptography refuses: one with an ML-DSA key, or an unusual certificate."""
    from hwsigner.backends.file import libcrypto

    bundle = libcrypto.load_pkcs12(uri.name, data, passphrase)
    if bundle is None:
        return None
    key, certificates = bundle
    return Bundle(_from_libcrypto(uri, key) if key else None, certificates)
