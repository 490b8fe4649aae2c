"""Checks of a request's certificates: the leaf, the path to a trust anchor (RFC 5280, 6.1), and revocation."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from hwsigner.emulator.differences import NONE, Difference, Differences
from hwsigner.emulator.refusals import RefusalError, denied, invalid
from hwsigner.emulator.resources import Crl, TrustAnchor

MAX_CHAIN = 5
_KEYS = "RSA of at least 2048 bits, P-256, P-384, P-521 or ML-DSA"
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_MLDSA_KEYS = (mldsa.MLDSA44PublicKey, mldsa.MLDSA65PublicKey, mldsa.MLDSA87PublicKey)
_MLDSA_OIDS = (SignatureAlgorithmOID.ML_DSA_44, SignatureAlgorithmOID.ML_DSA_65, SignatureAlgorithmOID.ML_DSA_87)


def read_certificate(text: str, where: str) -> x509.Certificate:
    """Read a certificate in base64 DER. A refusal is a ValidationException that names `where` the text is."""
    try:
        return x509.load_der_x509_certificate(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{where} is not a base64 DER certificate") from error


def read_chain(text: str | None, leaf: x509.Certificate, differing: Differences = NONE) -> list[x509.Certificate]:
    """Read X-Amz-X509-Chain: up to five certificates joined by commas, without a root.

    The leaf may be the first, as the vendor's client sends it if it is on a token or in PKCS #12. It is not returned. A
    refusal is a ValidationException that names the broken rule.
    """
    if text is None:
        return []
    chain = [read_certificate(each.strip(" "), "an item of X-Amz-X509-Chain") for each in text.split(",")]
    if len(chain) > MAX_CHAIN:
        raise invalid(f"X-Amz-X509-Chain holds {len(chain)} certificates, more than {MAX_CHAIN}")
    if Difference.LEAF_IN_CHAIN not in differing and chain[0] == leaf:
        chain = chain[1:]
    if leaf in chain:
        raise invalid("X-Amz-X509-Chain holds the certificate of X-Amz-X509 itself, and not as its first")
    if len(set(chain)) < len(chain):
        raise invalid("X-Amz-X509-Chain holds a certificate twice")
    if Difference.ROOT_IN_CHAIN not in differing and any(is_issued_by(each, each) for each in chain):
        raise invalid("X-Amz-X509-Chain holds a root, a self-signed certificate")
    return chain


def check_leaf(leaf: x509.Certificate, now: datetime, differing: Differences = NONE) -> None:
    """Check the service's requirements for an end-entity certificate.

    A refusal is an AccessDeniedException, "Untrusted certificate. Insufficient certificate".
    """
    try:
        problem = _leaf_problem(leaf, differing) or _common_problem(leaf, now, differing)
    except (ValueError, UnsupportedAlgorithm):
        problem = "has an unreadable extension or key"
    if problem:
        words = "Untrusted certificate. Insufficient certificate"
        words = "Certificate not accepted" if Difference.OTHER_WORDS in differing else words
        raise denied(words, f"the certificate {problem}")


def check_path(
    leaf: x509.Certificate, chain: list[x509.Certificate], anchors: list[x509.Certificate], now: datetime
) -> None:
    """Check that the chain, in the order sent, leads from the leaf to one of the anchors.

    Each certificate of the chain must have issued the one before it, so unrelated certificates are refused. A trust
    anchor that is itself an intermediate certificate may be part of the chain. What is above a certificate that a trust
    anchor issued may have expired, or break other rules. A refusal is an AccessDeniedException, "Untrusted signing
    certificate".
    """
    below, problem, depth = leaf, "not checked", 0
    for number, issuer in enumerate(chain, start=1):
        if not is_issued_by(below, issuer):
            raise _untrusted(f"item {number} of X-Amz-X509-Chain did not issue the certificate before it")
        problem = problem and _anchor_problem(below, anchors, depth, now)
        if problem and (issuer_problem := _issuer_problem(issuer, depth, now)):
            raise _untrusted(issuer_problem)
        below = issuer
        depth += issuer.subject != issuer.issuer  # Self-issued certificates do not count (RFC 5280, 6.1.4).
    problem = problem and _anchor_problem(below, anchors, depth, now)
    if problem:
        raise _untrusted(problem)


def check_name_constraints(leaf: x509.Certificate, issuers: Iterable[x509.Certificate]) -> None:
    """Check the leaf's DNS names against the name constraints of the CAs above it (RFC 5280, 4.2.1.10).

    A refusal is an AccessDeniedException, "Untrusted Signing Certificate".
    """
    alternative = _extension(leaf, x509.SubjectAlternativeName)
    names = alternative.get_values_for_type(x509.DNSName) if alternative else []
    for constraints in filter(None, (_extension(each, x509.NameConstraints) for each in issuers)):
        permitted = [each.value for each in constraints.permitted_subtrees or () if isinstance(each, x509.DNSName)]
        excluded = [each.value for each in constraints.excluded_subtrees or () if isinstance(each, x509.DNSName)]
        for name in names:
            if _is_below(name, excluded) or (permitted and not _is_below(name, permitted)):
                raise _untrusted("a CA's name constraints exclude a DNS name of the certificate")


def _is_below(name: str, domains: Iterable[str]) -> bool:
    return any(f".{name}".lower().endswith(f".{each.lstrip('.')}".lower()) for each in domains)


def anchor_problem(certificate: x509.Certificate) -> str:
    """Return why a certificate can't be that of a trust anchor, or an empty string. It may have expired."""
    return _issuer_problem(certificate, 0, certificate.not_valid_before_utc)


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether the issuer's name matches and its key signed the certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def algorithm_of(leaf: x509.Certificate) -> str:
    """Return the SigV4-X509 algorithm for the key of a certificate that check_leaf has accepted."""
    key = leaf.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return "AWS4-X509-RSA-SHA256"
    return "AWS4-X509-ECDSA-SHA256" if isinstance(key, ec.EllipticCurvePublicKey) else "AWS4-X509-MLDSA"


def verifies(leaf: x509.Certificate, signature: bytes, message: bytes) -> bool:
    """Return whether the key of a certificate that check_leaf has accepted signed the message.

    Signatures are PKCS #1 v1.5 (RSA), a DER SEQUENCE of r and s (EC), or raw with an empty context (ML-DSA).
    """
    key = leaf.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, _MLDSA_KEYS):
            key.verify(signature, message)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _anchor_problem(below: x509.Certificate, anchors: list[x509.Certificate], depth: int, now: datetime) -> str:
    """Return why no anchor may have issued this certificate, or an empty string if one did and may."""
    problem = "the last certificate sent was not issued by a certificate of the trust anchor"
    for anchor in anchors:
        if is_issued_by(below, anchor):
            problem = _issuer_problem(anchor, depth, now)
            if not problem:
                return ""
    return problem


def _issuer_problem(issuer: x509.Certificate, depth: int, now: datetime) -> str:
    """Return why this certificate may not issue others, or an empty string. Depth counts the intermediates below it."""
    try:
        problem = _issuing_problem(issuer, depth) or _common_problem(issuer, now)
    except (ValueError, UnsupportedAlgorithm):
        problem = "has an unreadable extension or key"
    return f"the CA certificate {issuer.subject.rfc4514_string()} {problem}" if problem else ""


def _issuing_problem(issuer: x509.Certificate, depth: int) -> str:
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        return "is not CA:TRUE"
    if constraints.path_length is not None and depth > constraints.path_length:
        return f"allows {constraints.path_length} certificates between it and the leaf, not {depth}"
    usage = _extension(issuer, x509.KeyUsage)
    return "" if usage is not None and usage.key_cert_sign else "lacks the key usage keyCertSign"


def _leaf_problem(leaf: x509.Certificate, differing: Differences) -> str:
    if leaf.version != x509.Version.v3:
        return "is not X.509 version 3"
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        return "is a CA certificate"
    if not leaf.subject and Difference.EMPTY_SUBJECT not in differing:
        return "has an empty subject"
    purposes = _extension(leaf, x509.ExtendedKeyUsage)
    if Difference.CLIENT_AUTH in differing and purposes and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        return "lacks the extended key usage clientAuth"
    usage = _extension(leaf, x509.KeyUsage)
    return "" if usage is not None and usage.digital_signature else "lacks the key usage digitalSignature"


def _common_problem(certificate: x509.Certificate, now: datetime, differing: Differences = NONE) -> str:
    if not _is_strongly_signed(certificate):
        return "is not signed with SHA-256, SHA-384, SHA-512 or ML-DSA"
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return f"is valid from {certificate.not_valid_before_utc} to {certificate.not_valid_after_utc}, and not now"
    for extension in certificate.extensions:
        is_unknown = isinstance(extension.value, x509.UnrecognizedExtension)
        if extension.critical and is_unknown and extension.oid != ExtensionOID.POLICY_MAPPINGS:
            return f"has the unknown critical extension {extension.oid.dotted_string}"
    return "" if _is_strong_key(certificate, differing) else f"has a key other than {_KEYS}"


def _is_strongly_signed(certificate: x509.Certificate) -> bool:
    if certificate.signature_algorithm_oid in _MLDSA_OIDS:
        return True
    return isinstance(certificate.signature_hash_algorithm, _STRONG_HASHES)


def _is_strong_key(certificate: x509.Certificate, differing: Differences) -> bool:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= (1024 if Difference.RSA_1024 in differing else 2048)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, _CURVES)
    return isinstance(key, _MLDSA_KEYS)


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _untrusted(reason: str) -> RefusalError:
    return denied("Untrusted signing certificate", reason)


def is_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Return whether a CA's name matches and its key signed the list."""
    key = issuer.public_key()
    try:
        if isinstance(key, _MLDSA_KEYS):
            key.verify(crl.signature, crl.tbs_certlist_bytes)
            is_valid = True
        else:
            is_valid = crl.is_signature_valid(key)  # type: ignore[arg-type]
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return is_valid and crl.issuer == issuer.subject


def check_revocation(certificates: Iterable[x509.Certificate], anchor: TrustAnchor, crls: Iterable[Crl]) -> None:
    """Check certificates that lead to a trust anchor against its enabled lists, even expired ones.

    A list is for the certificates of the CA that signed it. A refusal is an AccessDeniedException, "Certificate
    revoked".
    """
    certificates = list(certificates)
    for crl in crls:
        if not crl.enabled or crl.trust_anchor != anchor.arn:
            continue
        parsed = crl.parsed
        issuers = [each for each in anchor.certificates if is_signed_by(parsed, each)]
        for certificate in certificates:
            revoked = parsed.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if revoked and any(is_issued_by(certificate, issuer) for issuer in issuers):
                serial = f"{certificate.serial_number:x}"
                raise denied("Certificate revoked", f"the serial number {serial} is in the CRL {crl.name} ({crl.arn})")
