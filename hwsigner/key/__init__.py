"""Keys: what every backend's keys can do, and from a key URI to a key or to certificates.

A backend is a module. What it can do is a Protocol for each capability: the first ones are here, `listing.py` has that
for tokens, and `management.py` those for a key's life. A backend need only open keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, Protocol, Self, TypeVar

from hwsigner._pins import AskPin, PinSource
from hwsigner._uri import KeyURI
from hwsigner.errors import CertificateError, UnsupportedKeyError, UsageError

Algorithm = Literal["AWS4-X509-RSA-SHA256", "AWS4-X509-ECDSA-SHA256", "AWS4-X509-MLDSA"]
RSA: Algorithm = "AWS4-X509-RSA-SHA256"
ECDSA: Algorithm = "AWS4-X509-ECDSA-SHA256"
MLDSA: Algorithm = "AWS4-X509-MLDSA"

HashName = Literal["sha256", "sha384", "sha512"]

# The keys that the service accepts: the bits of an RSA modulus, and all of them in words.
RSA_BITS = range(2048, 4097)
EXPONENT_HINT = "Make another key: the exponent is odd and at least 3, mostly 65537"
SUPPORTED_KEYS = "RSA of 2048 to 4096 bits, ECDSA on P-256, P-384 and P-521, and ML-DSA-44, -65 and -87"


def is_rsa_exponent(number: int) -> bool:
    """Return whether an RSA key can have a public exponent (RFC 8017, 3.1)."""
    return number >= 3 and number % 2 == 1


def unknown_hash(hash: object) -> UnsupportedKeyError:
    """Return the error for what is not a HashName."""
    return UnsupportedKeyError(f"keys don't sign with the hash {hash!r}", "Use sha256, sha384 or sha512")


class Key(Protocol):
    """A private key that can be used and not read. Thread-safe.

    Open one with `open_key`; close it with `close()` or a `with` statement.

    A process may fork while a key is open, and the key goes on working in the parent. In the child it either signs or
    raises a SigningKeyError; it never blocks, and using or closing it there does not disturb the parent's. A child that
    wants to be sure opens its own key.
    """

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm that the key signs for."""
        ...

    def public_key(self) -> bytes | None:
        """Return the public key as a DER SubjectPublicKeyInfo (RFC 5280, 4.1), or None if a token does not have it."""
        ...

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message in the form that the service wants.

        Args:
            message: the bytes themselves, not a digest. Every key takes 64 KiB; a backend may refuse more.
            hash: the hash of RSA and ECDSA signatures. Every key takes SHA-256; a backend may refuse the others.
                ML-DSA ignores it.

        Returns:
            ECDSA: the DER SEQUENCE of r and s (RFC 3279, 2.2.3). RSA: PKCS #1 v1.5 (RFC 8017, 8.2).
            ML-DSA: the raw signature of the message with an empty context (FIPS 204, 5.2).

        Raises:
            UnsupportedKeyError: the key does not sign with this hash, or a message of this length.
            SigningKeyError: the key is closed, or can't sign.
        """
        ...

    def close(self) -> None:
        """Release the key and what it uses of its token. Closing it again does nothing."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FoundCertificate(NamedTuple):
    """A certificate that a backend holds: its DER bytes and the URI that names it alone."""

    der: bytes
    uri: str


class OpensKeys(Protocol):
    """A backend: it opens keys."""

    def open_key(self, uri: KeyURI, pins: PinSource, *, public_key: bytes | None = None) -> Key:
        """Open the key that a key URI names; see `open_key`.

        Args:
            uri: the key URI, with a file's resolved to the backend of its content.
            pins: where the PIN comes from.
            public_key: the certificate's DER SubjectPublicKeyInfo, which chooses if the URI names several keys.
        """
        ...


class FindsCertificates(Protocol):
    """A backend that holds certificates, too."""

    def find_certificates(self, uri: KeyURI, pins: PinSource) -> list[FoundCertificate]:
        """Return the certificates that a key URI names, at least one; see `find_certificates`."""
        ...


class ChecksModules(Protocol):
    """A backend whose key URIs can name a library to load, a program to run, or something of this process."""

    def check_modules(self, uri: KeyURI) -> None:
        """Refuse a URI that names such a thing, as one from elsewhere must not. It is called before anything else.

        It is not called for a URI from a command line or a profile.

        Raises:
            UsageError: the URI names what it must not.
        """
        ...


_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def open_key(
    uri: str | KeyURI,
    pin: str | AskPin | PinSource | None = None,
    *,
    public_key: bytes | None = None,
    allow_modules: bool = False,
) -> Key:
    """Open the key that a key URI or a path names.

    Args:
        uri: the key URI; `docs/reference/key-uris.md` has its forms.
        pin: the PIN itself, or a callable that is asked for it before any other place.
        public_key: the certificate's DER SubjectPublicKeyInfo, which chooses if the URI names several keys.
        allow_modules: whether the URI may name any library to load, in `module-path` or `tcti`. Otherwise it must be in
            the system's folders or in p11-kit's configuration, since a URI from elsewhere must not run anything. Nor
            may it name a variable or an open file of this process: `env:` and `fd:`.

    Raises:
        UsageError: the URI is malformed, or names a library that needs `allow_modules`.
        SigningKeyError: the key can't be found or opened, or its backend's library is not installed.
        PinError: a PIN is missing, wrong or locked. A wrong PIN is sent once.
    """
    parsed = KeyURI.of(uri).resolved()
    lack = f"{parsed.scheme}: keys can't be opened", "Report it to the authors of their backend"
    open_named = capability(parsed, OpensKeys.open_key, parsed.backend.module, lack, allow_modules=allow_modules)
    return parsed.backend._guarded_key(parsed.scheme, open_named(parsed, PinSource.of(pin), public_key=public_key))


def find_certificates(
    uri: str | KeyURI, pin: str | AskPin | PinSource | None = None, *, allow_modules: bool = False
) -> list[FoundCertificate]:
    """Return the certificates that a key URI or a path names, at least one. They are not parsed.

    Args:
        uri: the URI or path.
        pin: where the PIN comes from, as in `open_key`.
        allow_modules: whether the URI may name any library to load, as in `open_key`.

    Raises:
        UsageError: the URI is malformed, names a library that needs `allow_modules`, or its backend holds no
            certificates.
        CertificateError: there is none, or the place can't be read.
        PinError: they are behind a PIN that is missing, wrong or locked.
    """
    parsed = KeyURI.of(uri)
    if parsed.query and parsed.resolved().scheme != parsed.scheme:
        parsed = KeyURI(parsed.scheme, parsed.path)  # The query is for the key in the same file.
    problem = f"{parsed.name} can't name a certificate: {parsed.scheme}: URIs name keys"
    lack = problem, "Name a certificate file or a token's certificate with --certificate"
    function, module = FindsCertificates.find_certificates, parsed.backend.module
    find = capability(parsed, function, module, lack, returns=[FoundCertificate], allow_modules=allow_modules)
    found = list(find(parsed, PinSource.of(pin)))
    if not found:  # A backend from elsewhere may break its Protocol.
        raise CertificateError(f"{parsed.name} names no certificate")
    return found


def capability(
    uri: KeyURI,
    function: Callable[Concatenate[Any, _Given], _Result],
    module: str,
    lack: tuple[str, str],
    *,
    returns: type | list[type] = object,
    allow_modules: bool,
) -> Callable[_Given, _Result]:
    """Return a function of a key's backend. The backend may refuse to load the library that the key URI names.

    Args:
        uri: the key URI.
        function: the function, as the Protocol of the capability has it: `FindsCertificates.find_certificates`.
        module: which of the backend's modules has it. It is imported.
        lack: the problem and the hint for a backend without it.
        returns: the type of its result, or a list with that of each item. A plugin's result is checked.
        allow_modules: whether the URI may name any library to load, as in `open_key`.

    Raises:
        UsageError: the backend does not have the function, or refused the library.
        BackendUnavailableError: its own library is not installed.
        PluginError: it is not built in, and can't be imported. The function raises this if it fails.
    """
    backend = uri.backend
    found: Callable[_Given, _Result] | None = getattr(module and backend.load(module), function.__name__, None)
    if found is None:
        raise UsageError(*lack)
    found = backend._guarded(uri.scheme, module, found, name=function.__name__, returns=returns)
    name = ChecksModules.check_modules.__name__
    check = None if allow_modules else getattr(backend.load(backend.module), name, None)
    if check:
        backend._guarded(uri.scheme, backend.module, check, name=name)(uri)
    return found
