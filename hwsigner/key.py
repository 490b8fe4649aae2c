"""The Key protocol, and open_key: from a key URI to a key that signs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from hwsigner.backends import BACKENDS
from hwsigner.errors import BackendUnavailableError, UsageError
from hwsigner.pins import AskPin, PinSource
from hwsigner.uri import KeyURI

Algorithm = Literal["AWS4-X509-RSA-SHA256", "AWS4-X509-ECDSA-SHA256", "AWS4-X509-MLDSA"]
RSA: Algorithm = "AWS4-X509-RSA-SHA256"
ECDSA: Algorithm = "AWS4-X509-ECDSA-SHA256"
MLDSA: Algorithm = "AWS4-X509-MLDSA"

HashName = Literal["sha256", "sha384", "sha512"]

# The keys that the service takes: the bits of an RSA modulus, and the words for all of them.
RSA_BITS = range(2048, 4097)
SUPPORTED_KEYS = "RSA of 2048 to 4096 bits, ECDSA on P-256, P-384 and P-521, and ML-DSA-44, -65 and -87"


class Key(Protocol):
    """A private key that can be used and not read. Safe to use from several threads.

    Open one with `open_key`; close it with `close()` or a `with` statement.
    """

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm that the key signs for."""
        ...

    def public_key(self) -> bytes | None:
        """Return the public key as a DER SubjectPublicKeyInfo (RFC 5280, 4.1), or None where a token has none."""
        ...

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message as the service wants it.

        Args:
            message: the bytes themselves, not a digest of them.
            hash: the hash of RSA and ECDSA signatures; ML-DSA has none and ignores it.

        Returns:
            ECDSA: the DER SEQUENCE of r and s (RFC 3279, 2.2.3). RSA: PKCS #1 v1.5 (RFC 8017, 8.2).
            ML-DSA: the raw signature over the message with an empty context (FIPS 204, 5.2).

        Raises:
            SigningKeyError: the key can't be used any more, or not like this.
        """
        ...

    def close(self) -> None:
        """Release the key and what it holds of its token. Closing twice is allowed."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FoundCertificate(NamedTuple):
    """A certificate that a backend holds: its DER bytes and the URI that names it alone."""

    der: bytes
    uri: str


_TSS2_HEADER = b"-----BEGIN TSS2 PRIVATE KEY-----"
# In DER, the OID 2.23.133.10.1 stands at the file's start.
_TSS2_OID = bytes.fromhex("06066781050a01")
_OID_BYTES = 16
_SNIFFED_BYTES = 65536


def open_key(uri: str | KeyURI, pin: str | AskPin | PinSource | None = None, *, public_key: bytes | None = None) -> Key:
    """Open the key that a key URI or a path names.

    Args:
        uri: the key URI; see `hwsigner.uri` for its forms.
        pin: the PIN itself, or a callable that is asked for it before any other place.
        public_key: the certificate's DER SubjectPublicKeyInfo, which decides when the URI names several keys.

    Raises:
        UsageError: the URI is malformed.
        SigningKeyError: the key can't be found or opened, or its backend's library is not installed.
        PinError: a PIN is missing, wrong or locked. A wrong PIN is tried once.
    """
    parsed = resolve(KeyURI.of(uri))
    key: Key = load_backend(parsed.scheme).open_key(parsed, pin_source(pin), public_key=public_key)
    return key


def find_certificates(uri: str | KeyURI, pin: str | AskPin | PinSource | None = None) -> list[FoundCertificate]:
    """Return the certificates that a key URI or a path names, at least one.

    Raises:
        UsageError: the URI is malformed, or its backend holds no certificates.
        CertificateError: there is none, or it can't be read.
        PinError: they lie behind a PIN that is missing, wrong or locked.
    """
    parsed = KeyURI.of(uri)
    find: Callable[[KeyURI, PinSource], list[FoundCertificate]] | None
    find = getattr(load_backend(parsed.scheme), "find_certificates", None)
    if find is None:
        hint = "Name a certificate file or a token's certificate with --certificate"
        raise UsageError(f"{parsed.name} can't name a certificate: {parsed.scheme}: URIs name keys", hint)
    return list(find(parsed, pin_source(pin)))


def pin_source(pin: str | AskPin | PinSource | None) -> PinSource:
    """Return what a caller gave for a PIN as a PinSource."""
    if isinstance(pin, PinSource):
        return pin
    return PinSource(pin) if pin is None or isinstance(pin, str) else PinSource(ask=pin)


def resolve(uri: KeyURI) -> KeyURI:
    """Return the URI of the backend that reads this file: the content of a TSS2 key file makes it the TPM's."""
    # A pipe can be read once only, and that is the file backend's to do.
    if uri.scheme != "file" or not os.path.isfile(uri.file):
        return uri
    try:
        with open(uri.file, "rb") as file:
            start = file.read(_SNIFFED_BYTES)
        is_tss2 = _TSS2_HEADER in start or _TSS2_OID in start[:_OID_BYTES]
    except OSError:
        is_tss2 = False  # The file backend says what is wrong with it.
    return KeyURI("tpm2", uri.path, uri.query, uri.pin_value) if is_tss2 else uri


def load_backend(scheme: str) -> ModuleType:
    """Return the module that opens a scheme's keys, imported now.

    Raises:
        BackendUnavailableError: its library is not installed.
    """
    backend = BACKENDS[scheme]
    try:
        return importlib.import_module(backend.module)
    except ImportError as error:
        if not backend.extra:
            raise
        raise BackendUnavailableError(
            f"{scheme}: keys need a library that can't be loaded ({error})",
            f"Run pip install 'hwsigner[{backend.extra}]'",
        ) from error
