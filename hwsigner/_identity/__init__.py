"""An identity: a key with its certificate chain, opened together and checked against each other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Self

from hwsigner._identity.certificate import (
    Certificate,
    Chain,
    build_chain,
    latest_expiring,
    leaves,
    load,
    load_readable,
    preflight,
)
from hwsigner._pins import AskPin, PinSource
from hwsigner._uri import KeyURI
from hwsigner.errors import (
    AmbiguousCertificateError,
    CertificateError,
    CertificateWarning,
    KeyMismatchError,
    SigningKeyError,
)
from hwsigner.key import FoundCertificate, HashName, Key, find_certificates, open_key


class IdentitySource:
    """Where an identity comes from, and how to choose it.

    Attributes:
        certificate: path or URI of the leaf. Intermediates, and the key, may be there too.
        private_key: path or URI of the key; the certificate's if None.
        intermediates: path or URI of more certificates of the chain.
        pin: the key's PIN, or a callable that is asked for it before any other place.
        check: whether to check the leaf before the key is used.
        latest: whether to choose the leaf that expires last, if there are several.
        selected: the leaf's DER bytes, if it was already chosen: its token may hold others with its label and id.
        allow_modules: whether the URIs may name any library to load, as in `hwsigner.key.open_key`.
    """

    def __init__(
        self,
        certificate: str | KeyURI,
        private_key: str | KeyURI | None = None,
        intermediates: str | KeyURI | None = None,
        pin: str | AskPin | PinSource | None = None,
        *,
        check: bool = True,
        latest: bool = False,
        selected: bytes | None = None,
        allow_modules: bool = False,
    ) -> None:
        self.certificate: Final = certificate
        self.private_key: Final = private_key
        self.intermediates: Final = intermediates
        self.pin: Final = pin
        self.check: Final = check
        self.latest: Final = latest
        self.selected: Final = selected
        self.allow_modules: Final = allow_modules

    def files(self) -> list[bytes]:
        """Return the paths of the identity's files: those of file: and tpm2:path= URIs."""
        uris = [KeyURI.of(uri) for uri in (self.certificate, self.private_key, self.intermediates) if uri]
        return [uri.path["path"] for uri in uris if "path" in uri.path]


class Identity:
    """A key with its certificate chain. Thread-safe. Close it, or use it in a `with` statement.

    Attributes:
        key: the key.
        chain: the chain.
    """

    def __init__(self, key: Key, chain: Chain) -> None:
        self.key = key
        self.chain = chain

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message as `Key.sign` does, and verify the signature with the certificate's key.

        Raises:
            KeyMismatchError: the certificate's key did not make the signature.
            SigningKeyError: the key can't be used.
        """
        signature = self.key.sign(message, hash)
        if not self.chain.leaf.verify(message, signature=signature, hash=hash):
            raise _mismatch(self.chain.leaf)
        return signature

    def close(self) -> None:
        """Close the key."""
        self.key.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_identity(source: IdentitySource, now: datetime | None = None) -> Identity:
    """Read the chain, check the leaf, and only then open the key.

    Args:
        source: what to open.
        now: the time that certificates must be valid at, with its zone; the clock's if None.

    Raises:
        CertificateError: a certificate can't be read, or the service would refuse the leaf.
        AmbiguousCertificateError: several certificates may be the leaf.
        SigningKeyError: the key can't be opened, or is not the certificate's.
    """
    now = now or datetime.now(UTC)
    pins = PinSource.of(source.pin)
    certificate = KeyURI.of(source.certificate)
    private_key = KeyURI.of(source.private_key or certificate)
    certificate_pins = pins
    if certificate.place == private_key.place:  # One PIN unlocks both, and may be in either URI.
        certificate, private_key = certificate.with_pin_of(private_key), private_key.with_pin_of(certificate)
    else:
        certificate_pins = pins.without_pin()  # The key's PIN must not reach another token or file.
    find = partial(find_certificates, allow_modules=source.allow_modules)
    certificates = _certificates_of(certificate, find(certificate, certificate_pins))
    extra = load(find(source.intermediates, pins.without_pin())) if source.intermediates else []
    candidates = [c for c in certificates if source.selected and c.der == source.selected] or leaves(certificates)
    public_key = _common_public_key(candidates)
    if public_key is not None:
        candidates = [_only(candidates, latest=source.latest)]
        _check(candidates[0], source, now)
    key = open_key(private_key, pins, public_key=public_key, allow_modules=source.allow_modules)
    try:
        leaf = _leaf_of(key, candidates, certificates, latest=source.latest)
        if leaf is not candidates[0] or public_key is None:
            _check(leaf, source, now)
        return Identity(key, _chain_of(leaf, [*certificates, *_others_on_token(leaf, certificate, find)], extra))
    except BaseException:
        key.close()
        raise


def _certificates_of(uri: KeyURI, found: list[FoundCertificate]) -> list[Certificate]:
    """Return the certificates found under a URI, without the unreadable ones on a token that has others."""
    return (load_readable(found)[0] if uri.backend.shares_store else []) or load(found)


def _others_on_token(
    leaf: Certificate, uri: KeyURI, find: Callable[[KeyURI, PinSource], list[FoundCertificate]]
) -> list[Certificate]:
    """Return the other certificates on the leaf's token, if the URI named the leaf alone. No PIN is sent for them."""
    if not uri.backend.shares_store or uri.token == uri or leaf.is_root():
        return []
    try:
        return load_readable(find(KeyURI.parse(leaf.source).token, PinSource().without_pin()))[0]
    except (CertificateError, SigningKeyError):
        return []


def _check(leaf: Certificate, source: IdentitySource, now: datetime) -> None:
    if source.check:
        preflight(leaf, now)
    if leaf.unusual:
        message = f"certificate {leaf.source} is not in the exact form of RFC 5280, and the service may refuse it"
        warnings.warn(CertificateWarning(message, "If it does, have it issued again"), stacklevel=3)


def _common_public_key(candidates: Sequence[Certificate]) -> bytes | None:
    """Return the public key of all candidates, or None if they have several."""
    keys = {candidate.public_key() for candidate in candidates}
    return keys.pop() if len(keys) == 1 else None


def _leaf_of(
    key: Key, candidates: Sequence[Certificate], certificates: Sequence[Certificate], *, latest: bool
) -> Certificate:
    """Return the key's certificate."""
    public_key = key.public_key()
    if public_key is not None:
        matching = [c for c in candidates if c.public_key() == public_key]
        candidates = matching or [c for c in certificates if c.public_key() == public_key]
        if not candidates:
            raise _mismatch(certificates[0])
    return _only(candidates, latest=latest)


def _only(candidates: Sequence[Certificate], *, latest: bool) -> Certificate:
    """Return the only candidate, or the one that expires last if the others are its renewals."""
    kinds = {(one.public_key(), one.x509.subject, one.x509.issuer) for one in candidates}
    if len(kinds) > 1 and not latest:
        problem = f"{len(candidates)} certificates may be the leaf: {', '.join(map(_described, candidates))}"
        hint = "Remove the others, name one alone or, without --private-key, add --use-latest-expiring-certificate"
        raise AmbiguousCertificateError(problem, hint)
    return latest_expiring(candidates)


def _chain_of(leaf: Certificate, certificates: Sequence[Certificate], extra: Sequence[Certificate]) -> Chain:
    chain, strangers = build_chain(leaf, [*certificates, *extra])
    unused = [c for c in strangers if c in extra]
    if unused:
        message = f"{unused[0].source} has a certificate that is not in the chain: {unused[0].subject}"
        warnings.warn(CertificateWarning(message, "Remove it"), stacklevel=3)
    return chain


def _described(certificate: Certificate) -> str:
    x509 = certificate.x509
    expiry = f"{x509.not_valid_after_utc:%Y-%m-%d}"
    return f"{certificate.source} ({certificate.subject}, serial {x509.serial_number:X}, expires {expiry})"


def _mismatch(leaf: Certificate) -> KeyMismatchError:
    problem = f"the private key does not belong to certificate {leaf.source} ({leaf.subject})"
    return KeyMismatchError(problem, "Give the key that the certificate was issued for")
