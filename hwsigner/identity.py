"""An identity: a key with its certificate chain, opened together and checked against each other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from hwsigner.certificate import Certificate, Chain, build_chain, latest_expiring, leaves, load, preflight
from hwsigner.errors import AmbiguousKeyError, CertificateWarning, KeyMismatchError
from hwsigner.key import HashName, Key, find_certificates, open_key
from hwsigner.pin import PinSource
from hwsigner.uri import KeyURI


@dataclass(frozen=True)
class IdentityNames:
    """What names an identity.

    Attributes:
        certificate: path or URI of the leaf; intermediates, and the key, may be there too.
        private_key: path or URI of the key; the certificate's when None.
        intermediates: path or URI of more certificates of the chain.
        pins: where the PIN of the key comes from.
        check: look the leaf over before the key is touched.
        latest: of several leaves take the one that expires last.
    """

    certificate: str | KeyURI
    private_key: str | KeyURI | None = None
    intermediates: str | KeyURI | None = None
    pins: PinSource = field(default_factory=PinSource)
    check: bool = True
    latest: bool = False


class Identity:
    """A key with its certificate chain. Safe to use from several threads; close it, or use it in a `with` statement."""

    def __init__(self, key: Key, chain: Chain) -> None:
        self.key = key
        self.chain = chain

    def sign(self, message: bytes, hash: HashName = "sha256") -> bytes:
        """Sign a message as `Key.sign` does, and verify the signature with the certificate's key.

        Raises:
            KeyMismatchError: the signature is not one of the certificate's key.
            SigningKeyError: the key can't be used.
        """
        signature = self.key.sign(message, hash)
        if not self.chain.leaf.verify(message, signature, hash):
            raise _mismatch(self.chain.leaf)
        return signature

    def close(self) -> None:
        """Close the key."""
        self.key.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_identity(names: IdentityNames, now: datetime | None = None) -> Identity:
    """Read the chain, look the leaf over, and only then open the key.

    Args:
        names: what to open.
        now: the time to judge validity by, with its zone; the clock's when None.

    Raises:
        CertificateError: a certificate can't be read, or the service would refuse the leaf.
        SigningKeyError: the key can't be opened, or is not the certificate's.
        AmbiguousKeyError: several certificates may be the leaf.
    """
    now = now or datetime.now(UTC)
    certificates = load(find_certificates(names.certificate, _certificate_pins(names)))
    extra = load(find_certificates(names.intermediates, names.pins.without_pin())) if names.intermediates else []
    candidates = leaves(certificates)
    public_key = _common_public_key(candidates)
    if public_key is not None:
        candidates = [_only(candidates, latest=names.latest)]
        if names.check:
            preflight(candidates[0], now)
    key = open_key(names.private_key or names.certificate, names.pins, public_key=public_key)
    try:
        leaf = _leaf_of(key, candidates, certificates, latest=names.latest)
        if names.check:
            preflight(leaf, now)
        return Identity(key, _chain_of(leaf, certificates, extra))
    except BaseException:
        key.close()
        raise


def _certificate_pins(names: IdentityNames) -> PinSource:
    """Return the places for the certificate's PIN: the key's PIN must not reach another token or file."""
    return names.pins if names.private_key in (None, names.certificate) else names.pins.without_pin()


def _common_public_key(candidates: Sequence[Certificate]) -> bytes | None:
    """Return the public key that all candidates share, if they do."""
    keys = {candidate.public_key() for candidate in candidates}
    return keys.pop() if len(keys) == 1 else None


def _leaf_of(
    key: Key, candidates: Sequence[Certificate], certificates: Sequence[Certificate], *, latest: bool
) -> Certificate:
    """Return the certificate of a key."""
    public_key = key.public_key()
    if public_key is not None:
        matching = [c for c in candidates if c.public_key() == public_key]
        candidates = matching or [c for c in certificates if c.public_key() == public_key]
        if not candidates:
            raise _mismatch(certificates[0])
    return _only(candidates, latest=latest)


def _only(candidates: Sequence[Certificate], *, latest: bool) -> Certificate:
    if len(candidates) > 1 and not latest:
        listed = ", ".join(f"{c.source} ({c.subject}, expires {_day_of_expiry(c)})" for c in candidates)
        raise AmbiguousKeyError(
            f"{len(candidates)} certificates may be the leaf: {listed}",
            "Name one of them alone, or let --use-latest-expiring-certificate pick",
        )
    return latest_expiring(candidates)


def _chain_of(leaf: Certificate, certificates: Sequence[Certificate], extra: Sequence[Certificate]) -> Chain:
    chain, strangers = build_chain(leaf, [*certificates, *extra])
    unused = [c for c in strangers if c in extra]
    if unused:
        warnings.warn(
            CertificateWarning(f"{unused[0].source} holds a certificate outside the chain: {unused[0].subject}"),
            stacklevel=3,
        )
    return chain


def _day_of_expiry(certificate: Certificate) -> str:
    return f"{certificate.x509.not_valid_after_utc:%Y-%m-%d}"


def _mismatch(leaf: Certificate) -> KeyMismatchError:
    return KeyMismatchError(
        f"the private key does not belong to certificate {leaf.source} ({leaf.subject})",
        "Give the key that the certificate was issued for",
    )
