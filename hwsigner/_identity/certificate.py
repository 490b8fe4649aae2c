"""Certificate chains: parse, order and check them.

A leaf must meet IAM Roles Anywhere's trust model: X.509 version 3, basicConstraints absent or CA:FALSE, keyUsage
digitalSignature, signed with SHA-256 or better, within its validity, and with a subject that is not empty.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.errors import CertificateError, CertificateWarning
from hwsigner.key import (
    ECDSA,
    EXPONENT_HINT,
    MLDSA,
    RSA,
    SUPPORTED_KEYS,
    Algorithm,
    FoundCertificate,
    HashName,
    find_certificates,
    is_rsa_exponent,
)
from hwsigner.key.public_key import HASHES, MLDSA_KEYS, verify

if TYPE_CHECKING:
    Rule = Literal["expired", "not-yet-valid", "version", "ca", "key-usage", "hash", "subject"]

MAX_INTERMEDIATES = 5
_CLOCK_TOLERANCE = timedelta(minutes=5)
WEAK_HASHES = frozenset({"md5", "sha1", "sha224"})
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
# Extensions of a YubiKey's attestation certificates, which have the same public key as the user's certificate.
_ATTESTATION_OIDS = "1.3.6.1.4.1.41482.3."
Extension = TypeVar("Extension", bound=x509.ExtensionType)
# What cryptography and asn1crypto raise for a certificate that they can't read.
_BROKEN = (
    *(ArithmeticError, LookupError, TypeError, ValueError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)


class Certificate(NamedTuple):
    """One X.509 certificate and where it came from.

    Attributes:
        x509: the certificate, or a copy in the form of RFC 5280 with the fields and extensions that are used here.
        source: the path or URI that it was read from, for messages.
        unusual: the DER bytes of a certificate that breaks RFC 5280, so that `x509` is a copy; empty for others.
    """

    x509: x509.Certificate
    source: str
    unusual: bytes = b""

    @property
    def der(self) -> bytes:
        """The certificate's DER bytes."""
        return self.unusual or self.x509.public_bytes(Encoding.DER)

    @property
    def subject(self) -> str:
        """The subject as an RFC 4514 string, most specific name first."""
        return self.x509.subject.rfc4514_string()

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the certificate's key.

        Raises:
            CertificateError: the service does not accept this kind of key.
        """
        key = self.x509.public_key()
        if isinstance(key, rsa.RSAPublicKey):
            return RSA
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
            return ECDSA
        if isinstance(key, MLDSA_KEYS):
            return MLDSA
        problem = f"certificate {self.source} has a kind of key that the service does not accept"
        raise CertificateError(problem, f"Use {SUPPORTED_KEYS}")

    def public_key(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo."""
        return self.x509.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def verify(self, message: bytes, *, signature: bytes, hash: HashName = "sha256") -> bool:
        """Return whether the certificate's key made a signature, in the form of `Key.sign`."""
        return verify(self.public_key(), message, signature=signature, hash=hash)

    def is_root(self) -> bool:
        """Return whether its own key signed it. Names don't decide: a CA's other certificates may have the same two."""
        is_unverifiable = self.x509.subject == self.x509.issuer and signature_hash(self.x509) in WEAK_HASHES
        return is_unverifiable or self.issued(self)

    def issued(self, other: Certificate) -> bool:
        """Return whether this certificate's subject and key are those that issued the other."""
        try:
            other.x509.verify_directly_issued_by(self.x509)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return other.x509.issuer == self.x509.subject and self._issued_unusual(other)
        return True

    def _issued_unusual(self, other: Certificate) -> bool:
        """Return the same of a certificate of another form, or that has the name as another type of string."""
        from asn1crypto.x509 import Certificate as Parsed

        hash_name = signature_hash(other.x509) or "sha256"  # ML-DSA signs no hash.
        if hash_name not in HASHES:
            return False
        signed = Parsed.load(other.der)["tbs_certificate"].dump()
        return self.verify(signed, signature=other.x509.signature, hash=hash_name)


class Chain(NamedTuple):
    """A leaf with its intermediates, the leaf's issuer first, without the root."""

    leaf: Certificate
    intermediates: tuple[Certificate, ...] = ()

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The leaf, and then the intermediates."""
        return (self.leaf, *self.intermediates)

    @property
    def algorithm(self) -> Algorithm:
        """The SigV4-X509 algorithm of the leaf's key; see `Certificate.algorithm`."""
        return self.leaf.algorithm

    @property
    def serial(self) -> str:
        """The leaf's serial number in decimal, as `Credential=` wants it."""
        return str(self.leaf.x509.serial_number)

    @property
    def x509_header(self) -> str:
        """The value of X-Amz-X509: the leaf in base64 DER."""
        return _base64(self.leaf)

    @property
    def chain_header(self) -> str:
        """The value of X-Amz-X509-Chain: the intermediates in base64 DER, joined by commas; may be empty."""
        return ",".join(map(_base64, self.intermediates))


def load(found: Sequence[FoundCertificate] | KeyURI) -> list[Certificate]:
    """Parse what a backend found, or finds now at a place that the user names, without sending a PIN.

    A certificate that can't be read is a warning, and an error if there is no other.
    """
    if isinstance(found, KeyURI):
        found = find_certificates(found, PinSource().without_pin(), allow_modules=True)
    certificates, errors = load_readable(found)
    if errors and not certificates:
        raise errors[0]
    for error in errors:
        warnings.warn(CertificateWarning(f"{error.message}, so it is left out", error.hint), stacklevel=2)
    return certificates


def load_readable(found: Sequence[FoundCertificate]) -> tuple[list[Certificate], list[CertificateError]]:
    """Parse what a backend found; return the readable certificates, and an error for each other one."""
    certificates: list[Certificate] = []
    errors: list[CertificateError] = []
    for item in found:
        try:
            certificates.append(_parse(item))
        except CertificateError as error:
            errors.append(error)
    return certificates, errors


def leaves(certificates: Sequence[Certificate]) -> list[Certificate]:
    """Return the certificates that may be the leaf: those that issued no other one.

    CA certificates, attestation certificates (which a token issues for its keys) and those whose keyUsage forbids
    signing are left out, each unless nothing else remains.
    """
    candidates = _without_copies(certificates)
    ends = [c for c in candidates if not any(c.issued(other) for other in candidates if other is not c)]
    for is_other in (is_ca, is_attestation, lambda certificate: not _may_sign(certificate)):
        ends = [c for c in ends if not is_other(c.x509)] or ends
    return ends or list(candidates)


def latest_expiring(certificates: Sequence[Certificate]) -> Certificate:
    """Return the certificate that expires last."""
    return max(certificates, key=lambda certificate: certificate.x509.not_valid_after_utc)


def build_chain(
    leaf: Certificate, others: Sequence[Certificate], *, most: int = MAX_INTERMEDIATES
) -> tuple[Chain, list[Certificate]]:
    """Follow the issuers from a leaf; return the chain, and the certificates that are not in it.

    If an issuer has several valid certificates, renewed or cross-signed, the one that expires last is used, of those
    whose own issuer is among the certificates. More intermediates than `most` are a CertificateError; the service
    accepts MAX_INTERMEDIATES.
    """
    others = [c for c in _without_copies([leaf, *others]) if c is not leaf]
    # A root's cross-signed certificate leads on to another root, so the chain serves both trust anchors if it fits.
    chain = _follow(leaf, others, past_roots=True)
    if len(chain) > most:
        chain = _follow(leaf, others, past_roots=False)
    if len(chain) > most:
        problem = f"{leaf.source} has {len(chain)} intermediates and the service accepts {MAX_INTERMEDIATES}"
        hint = "Import one of the intermediates as the trust anchor and leave out those above it"
        raise CertificateError(f"certificate {problem}", hint)
    return Chain(leaf, tuple(chain)), [c for c in others if c not in chain and not c.is_root()]


def _follow(leaf: Certificate, others: Sequence[Certificate], *, past_roots: bool) -> list[Certificate]:
    """Return a leaf's issuers without the root; with `past_roots`, follow a root's cross-signed certificate instead."""
    chain: list[Certificate] = []
    rest, last, now = list(others), leaf, datetime.now(UTC)
    while issuers := [c for c in rest if c.issued(last)]:
        issuers = [c for c in issuers if c.x509.not_valid_before_utc <= now <= c.x509.not_valid_after_utc] or issuers
        preferred = [c for c in issuers if c.is_root() != past_roots] or issuers
        leading = [c for c in preferred if any(one.issued(c) for one in rest)] if len(preferred) > 1 else []
        last = latest_expiring(leading or preferred)
        rest.remove(last)
        if last.is_root():
            break
        chain.append(last)
    return chain


def preflight(leaf: Certificate, now: datetime) -> None:
    """Check a leaf as the service does, before its key is used.

    It may start to be valid up to five minutes later, as clocks differ.
    """
    for broken in broken_rules(leaf, now):
        problem = f"certificate {leaf.source} {broken.problem}"
        raise CertificateError(problem, f"{broken.hint}, or skip this check with --no-preflight")
    _ = leaf.algorithm


class BrokenRule:
    """A rule that a leaf breaks: the rule's name, such as `expired`, what is wrong with the leaf, and what to do."""

    def __init__(self, rule: Rule, problem: str, hint: str) -> None:
        self.rule: Final = rule
        self.problem: Final = problem
        self.hint: Final = hint


def broken_rules(leaf: Certificate, now: datetime) -> Iterator[BrokenRule]:
    """Yield each rule that a leaf breaks, but for the kind of its key; the arguments are those of `preflight`."""
    certificate = leaf.x509
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        hint = "Renew it, or fix the clock if it is wrong"
        yield BrokenRule("expired", f"expired at {_iso(end)} (now {_iso(now)})", hint)
    if now + _CLOCK_TOLERANCE < begin:
        problem = f"is not valid before {_iso(begin)} (now {_iso(now)})"
        yield BrokenRule("not-yet-valid", problem, "Wait, or fix the clock")
    if certificate.version is not x509.Version.v3:
        yield BrokenRule("version", "is not an X.509 version 3 certificate", "Reissue it with extensions")
    if is_ca(certificate):
        yield BrokenRule("ca", "is a CA certificate (CA:TRUE)", "Use an end-entity certificate")
    if not _may_sign(certificate):
        yield BrokenRule("key-usage", "has no keyUsage digitalSignature", "Reissue it with that key usage")
    hash_name = signature_hash(certificate)
    if hash_name in WEAK_HASHES:
        yield BrokenRule("hash", f"is signed with {hash_name.upper()}", "Reissue it with SHA-256 or better")
    if not certificate.subject:
        yield BrokenRule("subject", "has an empty subject", "Reissue it with a name such as CN=bamboo-01")


def late_renewal(leaf: Certificate, now: datetime) -> str:
    """Return what to say of a leaf in the last quarter of its life, when it should have been renewed; else nothing."""
    begin, end = leaf.x509.not_valid_before_utc, leaf.x509.not_valid_after_utc
    if not end - (end - begin) / 4 < now <= end:
        return ""
    return f"expires at {_iso(end)} (now {_iso(now)}) and was not renewed: less than a quarter of its life is left"


def _parse(found: FoundCertificate) -> Certificate:
    try:
        return Certificate(_strictly(found.der), found.uri)
    except _BROKEN as error:
        try:
            return Certificate(_strictly(_copy(found)), found.uri, found.der)
        except _BROKEN:
            hint = "It may be damaged: openssl x509 -text -in FILE shows what is in it"
            raise CertificateError(f"certificate {found.uri} can't be read", hint) from error


def _strictly(der: bytes) -> x509.Certificate:
    certificate = x509.load_der_x509_certificate(der)
    # Each of these is parsed on first use, so use them here to find a broken one.
    _ = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _ = certificate.subject, certificate.issuer, certificate.extensions
    return certificate


def _copy(found: FoundCertificate) -> bytes:
    """Return a copy of a certificate in the form of RFC 5280, with the extensions that are used here. No key signed it.

    openssl and Go accept what cryptography refuses: a pathLenConstraint without CA:TRUE, an encoded default, parameters
    of ECDSA signatures, and extensions that can't be parsed.
    """
    from asn1crypto.algos import SignedDigestAlgorithm
    from asn1crypto.x509 import BasicConstraints, Certificate, Extension

    certificate = Certificate.load(found.der, strict=True)
    body, kept = certificate["tbs_certificate"], []
    if certificate.public_key.algorithm == "rsa":
        exponent = certificate.public_key["public_key"].parsed["public_exponent"].native
        if not is_rsa_exponent(exponent):
            problem = f"certificate {found.uri} has an RSA key with the public exponent {exponent}"
            raise CertificateError(problem, EXPONENT_HINT)
    for extension in body["extensions"]:
        oid = extension["extn_id"].dotted
        if oid == x509.OID_BASIC_CONSTRAINTS.dotted_string:
            value = BasicConstraints({"ca": bool(extension["extn_value"].parsed["ca"].native)})
        elif oid == x509.OID_KEY_USAGE.dotted_string or oid.startswith(_ATTESTATION_OIDS):
            value = extension["extn_value"]
        else:
            continue
        kept.append(Extension({"extn_id": oid, "critical": True, "extn_value": value}))
    body["extensions"] = kept
    for holder, name in ((certificate, "signature_algorithm"), (body, "signature")):
        if holder[name]["algorithm"].native.endswith("_ecdsa"):
            holder[name] = SignedDigestAlgorithm({"algorithm": holder[name]["algorithm"].native})
    copy: bytes = certificate.dump()
    return copy


def _without_copies(certificates: Sequence[Certificate]) -> list[Certificate]:
    first: dict[bytes, Certificate] = {}
    for certificate in certificates:
        first.setdefault(certificate.der, certificate)
    return list(first.values())


def extension_of(extensions: x509.Extensions, kind: type[Extension]) -> Extension | None:
    """Return the extension of a kind, such as x509.KeyUsage, or None if there is none."""
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def is_ca(certificate: x509.Certificate) -> bool:
    """Return whether it is a CA's: basicConstraints with CA:TRUE (RFC 5280, 4.2.1.9)."""
    basic = extension_of(certificate.extensions, x509.BasicConstraints)
    return basic is not None and basic.ca


def is_attestation(certificate: x509.Certificate) -> bool:
    """Return whether a YubiKey issued it to attest a key in one of its slots."""
    return any(one.oid.dotted_string.startswith(_ATTESTATION_OIDS) for one in certificate.extensions)


def key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    """Return its keyUsage (RFC 5280, 4.2.1.3), or None if it has none."""
    return extension_of(certificate.extensions, x509.KeyUsage)


def _may_sign(certificate: x509.Certificate) -> bool:
    usage = key_usage(certificate)
    return usage is not None and usage.digital_signature


def signature_hash(certificate: x509.Certificate) -> str:
    """Return the name of the hash in the certificate's own signature; empty if it is unknown."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""
    return algorithm.name if algorithm else ""


def _base64(certificate: Certificate) -> str:
    return base64.b64encode(certificate.der).decode("ascii")


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
