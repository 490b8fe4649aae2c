"""Keys: what every backend's keys can do, and from a key URI to a key, to certificates, or to a list of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from hwsigner.errors import UnsupportedKeyError, UsageError
from hwsigner.pins import AskPin, PinSource
from hwsigner.uri import KeyURI

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FoundCertificate(NamedTuple):
    """A certificate that a backend holds: its DER bytes and the URI that names it alone."""

    der: bytes
    uri: str


class ListedObject(NamedTuple):
    """A key or a certificate on a token, as `list_tokens` shows it.

    Attributes:
        kind: `key` or `certificate`.
        label: the CKA_LABEL; bytes that are not UTF-8 are escaped.
        id: the CKA_ID.
        uri: the URI that names it.
        algorithm: a key's type, as the PKCS #11 specification names it (`EC`). A certificate's is in its public key.
        public_key: the DER SubjectPublicKeyInfo, or None if the token does not show it.
        certificate: a certificate's DER bytes.
        is_hidden: whether it is shown only after a login. Before, only its public key is visible.
        pin_for_each_signature: CKA_ALWAYS_AUTHENTICATE.
        notes: what else matters for its use, a few words each: `noDA`, `policy`.
    """

    kind: Literal["key", "certificate"]
    label: str
    id: bytes
    uri: str
    algorithm: str = ""
    public_key: bytes | None = None
    certificate: bytes | None = None
    is_hidden: bool = False
    pin_for_each_signature: bool = False
    notes: tuple[str, ...] = ()


class ListedToken(NamedTuple):
    """A token, with the objects that it shows.

    Attributes:
        module: the path of the PKCS #11 module.
        label, manufacturer, model, serial: the token's details, without padding.
        slot_id: its slot's number, which may change.
        uri: the URI that names only this token.
        wants_login: whether private keys are hidden until a login.
        has_keypad: whether the PIN is typed at the token itself.
        pin_state: `good`, `an earlier try failed`, `one try is left`, `locked` or `not set`;
            empty if it can't be known.
        objects: the keys and certificates that it shows.
        other_keys: keys that can't make the service's signatures, such as a TPM's storage root key.
    """

    module: str
    label: str
    manufacturer: str
    model: str
    serial: str
    slot_id: int
    uri: str
    wants_login: bool
    has_keypad: bool
    pin_state: str
    objects: tuple[ListedObject, ...] = ()
    other_keys: tuple[ListedObject, ...] = ()


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
    key: Key = load_backend(parsed, allow_modules).open_key(parsed, PinSource.of(pin), public_key=public_key)
    return key


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
    find: Callable[[KeyURI, PinSource], list[FoundCertificate]] | None
    find = getattr(load_backend(parsed, allow_modules), "find_certificates", None)
    if find is None:
        hint = "Name a certificate file or a token's certificate with --certificate"
        raise UsageError(f"{parsed.name} can't name a certificate: {parsed.scheme}: URIs name keys", hint)
    return list(find(parsed, PinSource.of(pin)))


def list_tokens(
    uri: str | KeyURI = "pkcs11:",
    pin: str | AskPin | PinSource | None = None,
    *,
    log_in: bool = False,
    allow_modules: bool = False,
) -> Iterator[ListedToken]:
    """Yield the tokens that a URI names, with the keys and certificates on them that it names.

    Args:
        uri: a `pkcs11:` URI, or `tpm2:`. A `pkcs11:` URI without a module means those of p11-kit's configuration.
        pin: where the PIN comes from for `log_in`.
        log_in: whether to log in to the token, to see hidden objects.
        allow_modules: whether the URI may name any library to load, as in `open_key`.

    Raises:
        UsageError: the URI is malformed, names a library that needs `allow_modules`, or its backend has no tokens to
            list.
        BackendUnavailableError: there is no module.
        AmbiguousKeyError: `log_in` is set and the URI names several tokens. No PIN was sent.
        PinError: the PIN is missing, wrong or locked.

    Warns:
        HwsignerWarning: a module or a token can't be used. The others are listed.
    """
    parsed = KeyURI.of(uri).resolved()
    find: Callable[..., Iterator[ListedToken]] | None
    find = getattr(load_backend(parsed, allow_modules), "list_tokens", None)
    if find is None:
        raise UsageError(f"{parsed.scheme}: keys can't be listed", "Give a pkcs11: or tpm2: URI, or none")
    yield from find(parsed, PinSource.of(pin), log_in=log_in)


def load_backend(uri: KeyURI, allow_modules: bool) -> ModuleType:
    """Return the module of a key URI's backend, which may refuse to load the library that the URI names."""
    module = uri.backend.load()
    check = getattr(module, "check_modules", None)
    if check and not allow_modules:
        check(uri)
    return module
