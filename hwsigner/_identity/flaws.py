"""Why the service refuses a certificate or a CA above it (RFC 5280, 6.1), as far as that can be seen without AWS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from hwsigner._identity.certificate import (
    MAX_INTERMEDIATES,
    WEAK_HASHES,
    Certificate,
    Chain,
    broken_rules,
    extension_of,
    is_ca,
    key_usage,
    signature_hash,
)
from hwsigner._identity.name_constraints import forbidden_names
from hwsigner.errors import CertificateError
from hwsigner.key.public_key import HASHES

_SMALLEST_RSA = 2048
_MANY_CHAINS = 100
_MLDSA = (SignatureAlgorithmOID.ML_DSA_44, SignatureAlgorithmOID.ML_DSA_65, SignatureAlgorithmOID.ML_DSA_87)
# AWS's pages do not say whether the service accepts these. The emulator does not.
_UNDOCUMENTED = frozenset({"form", "key-size", "ca-key", "signature", "names", "key-identifier"})


class Flaw(NamedTuple):
    """What is wrong with a certificate: the rule that it breaks, such as `expired`, and the problem, to be read after
    its name.
    """

    certificate: Certificate
    rule: str
    problem: str

    @property
    def is_documented(self) -> bool:
        """Whether AWS's pages or RFC 5280 say that such a certificate is refused."""
        return self.rule not in _UNDOCUMENTED


def leaf_flaws(leaf: Certificate, now: datetime) -> Iterator[Flaw]:
    """Yield what is wrong with a leaf, whatever issued it. `preflight` refuses only what surely is."""
    for broken in broken_rules(leaf, now):
        yield Flaw(leaf, broken.rule, broken.problem)
    try:
        _ = leaf.algorithm
    except CertificateError:
        yield Flaw(leaf, "key-kind", "has a kind of key that the service does not accept")
    yield from _flaws_of_any(leaf)


def chain_flaws(chain: Chain, now: datetime) -> list[Flaw]:
    """Return what is wrong with a leaf and its intermediates, whatever the trust anchor is."""
    return [*leaf_flaws(chain.leaf, now), *_flaws_of_intermediates(chain, now)]


def path_flaws(chain: Chain, anchors: Sequence[Certificate], now: datetime) -> list[Flaw] | None:
    """Return what is wrong with the CAs from a leaf to a trust anchor, by the best of several paths.

    A trust anchor may have issued the leaf or any of the intermediates. Those above it are then not needed. Returns
    None if no path leads to the trust anchor.
    """
    paths = [
        [*_flaws_of_intermediates(below, now), *ca_flaws(anchor, below, now)]
        for number, last in enumerate(chain.certificates)
        for below in [Chain(chain.leaf, chain.intermediates[:number])]
        for anchor in anchors
        if anchor.issued(last) or _may_have_issued(anchor, last)
    ]
    return min(paths, key=lambda found: (sum(each.is_documented for each in found), len(found)), default=None)


def other_chain(
    chain: Chain, others: Sequence[Certificate], anchors: Sequence[Certificate], now: datetime
) -> Chain | None:
    """Return a chain of the same leaf and of other certificates in which nothing is wrong, or None.

    The arguments are those of `path_flaws`, and the certificates to choose from.
    """
    pending, tried = [Chain(chain.leaf)], 0
    while pending and tried < _MANY_CHAINS:
        longer, tried = pending.pop(), tried + 1
        if path_flaws(longer, anchors, now) == []:
            return longer
        if len(longer.intermediates) < MAX_INTERMEDIATES:
            rest = [each for each in others if each not in longer.certificates and not each.is_root()]
            issuers = [each for each in rest if each.issued(longer.certificates[-1])]
            pending += [Chain(chain.leaf, (*longer.intermediates, each)) for each in issuers]
    return None


def ca_flaws(ca: Certificate, below: Chain, now: datetime) -> Iterator[Flaw]:
    """Yield what is wrong with a CA's certificate; `below` has those between it and the leaf."""
    # Self-issued certificates, as for a CA's next key, do not count for path lengths (RFC 5280, 4.2.1.9).
    depth = sum(each.x509.subject != each.x509.issuer for each in below.intermediates)
    basic, usage = extension_of(ca.x509.extensions, x509.BasicConstraints), key_usage(ca.x509)
    if not is_ca(ca.x509):
        yield Flaw(ca, "not-ca", "is not a CA's: it lacks CA:TRUE")
    if usage is None or not usage.key_cert_sign:
        yield Flaw(ca, "key-usage", "lacks the keyUsage keyCertSign")
    if basic and basic.path_length is not None and basic.path_length < depth:
        problem = f"allows {basic.path_length} intermediates below it (pathLenConstraint), and there are {depth}"
        yield Flaw(ca, "path-length", problem)
    begin, end = ca.x509.not_valid_before_utc, ca.x509.not_valid_after_utc
    if now > end:
        yield Flaw(ca, "expired", f"expired on {end:%Y-%m-%d}")
    if now < begin:
        yield Flaw(ca, "not-yet-valid", f"is not valid before {begin:%Y-%m-%dT%H:%M:%SZ}")
    if signature_hash(ca.x509) in WEAK_HASHES:
        yield Flaw(ca, "hash", f"is signed with {signature_hash(ca.x509).upper()}")
    try:
        _ = ca.algorithm
    except CertificateError:
        yield Flaw(ca, "ca-key", "has a kind of key that is neither RSA, P-256, P-384, P-521 nor ML-DSA")
    yield from _flaws_of_any(ca)
    yield from _flaws_of_issuing(ca, below)


def _flaws_of_issuing(ca: Certificate, below: Chain) -> Iterator[Flaw]:
    """Yield why OpenSSL refuses what a CA issued, though the CA's own certificate is right."""
    last = below.certificates[-1]
    named = extension_of(last.x509.extensions, x509.AuthorityKeyIdentifier)
    own = extension_of(ca.x509.extensions, x509.SubjectKeyIdentifier)
    issuers = [x509.DirectoryName(ca.x509.issuer)]
    if named and named.key_identifier and own and named.key_identifier != own.digest:
        problem = f"has another subjectKeyIdentifier than the authorityKeyIdentifier of {last.subject}"
        yield Flaw(ca, "key-identifier", problem)
    elif (
        named
        and named.authority_cert_serial_number
        and (named.authority_cert_serial_number != ca.x509.serial_number or named.authority_cert_issuer != issuers)
    ):
        yield Flaw(ca, "key-identifier", f"is not the one that the authorityKeyIdentifier of {last.subject} names")
    for each in below.certificates:
        if each is below.leaf or each.x509.subject != each.x509.issuer:
            for name in forbidden_names(each, ca):
                yield Flaw(ca, "names", f"does not allow {name} of {each.subject} (nameConstraints)")


def _may_have_issued(ca: Certificate, other: Certificate) -> bool:
    """Return whether names say so of a certificate whose signature is too weak to be verified by cryptography."""
    return signature_hash(other.x509) in WEAK_HASHES and other.x509.issuer == ca.x509.subject


def _flaws_of_intermediates(chain: Chain, now: datetime) -> Iterator[Flaw]:
    for number, each in enumerate(chain.intermediates):
        yield from ca_flaws(each, Chain(chain.leaf, chain.intermediates[:number]), now)


def _flaws_of_any(certificate: Certificate) -> Iterator[Flaw]:
    parsed = certificate.x509
    for extension in parsed.extensions:
        is_standard = extension.oid == ExtensionOID.POLICY_MAPPINGS or not isinstance(
            extension.value, x509.UnrecognizedExtension
        )
        if extension.critical and not is_standard:
            oid = extension.oid.dotted_string
            yield Flaw(certificate, "extension", f"has the critical extension {oid}, which is not a standard one")
    key, hash_name = parsed.public_key(), signature_hash(parsed)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _SMALLEST_RSA:
        yield Flaw(certificate, "key-size", f"has an RSA key of {key.key_size} bits, fewer than {_SMALLEST_RSA}")
    if hash_name not in (*HASHES, *WEAK_HASHES) and parsed.signature_algorithm_oid not in _MLDSA:
        oid = parsed.signature_algorithm_oid.dotted_string
        problem = f"is signed with neither SHA-256, SHA-384, SHA-512 nor ML-DSA ({hash_name.upper() or oid})"
        yield Flaw(certificate, "signature", problem)
    if certificate.unusual:
        yield Flaw(certificate, "form", "is not in the exact form of RFC 5280")
