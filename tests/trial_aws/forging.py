"""Certificates that cryptography does not make: of X.509 version 1, and signed with SHA-1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from trial_aws.authority import TrialIssuer


def version_1(certificate: x509.Certificate, issuer: TrialIssuer) -> x509.Certificate:
    """Return a certificate as one of X.509 version 1, which has no extensions."""
    return _signed_again(certificate, issuer, hashes.SHA256(), _without_extensions)


def sha1_signed(certificate: x509.Certificate, issuer: TrialIssuer) -> x509.Certificate:
    """Return a certificate as signed with SHA-1."""
    return _signed_again(certificate, issuer, hashes.SHA1(), lambda tbs: tbs)


def _without_extensions(tbs: Any) -> Any:
    names = [name for name, value in tbs.native.items() if value is not None]
    return asn1.TbsCertificate({name: tbs[name] for name in names if name not in ("version", "extensions")})


def _signed_again(
    certificate: x509.Certificate, issuer: TrialIssuer, algorithm: hashes.HashAlgorithm, change: Callable[[Any], Any]
) -> x509.Certificate:
    name = f"{algorithm.name}_ecdsa"
    tbs = asn1.Certificate.load(certificate.public_bytes(Encoding.DER))["tbs_certificate"]
    tbs["signature"] = {"algorithm": name}
    tbs = change(tbs)
    signature = issuer.key.sign(tbs.dump(force=True), ec.ECDSA(algorithm))
    new = {"tbs_certificate": tbs, "signature_algorithm": {"algorithm": name}, "signature_value": signature}
    return x509.load_der_x509_certificate(asn1.Certificate(new).dump())
