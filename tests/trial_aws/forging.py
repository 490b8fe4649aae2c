"""Certificates signed with SHA-1, which cryptography does not make."""

from __future__ import annotations

from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from trial_aws.authority import Issued


def sha1_signed(certificate: x509.Certificate, issuer: Issued) -> x509.Certificate:
    """Return a certificate as signed with SHA-1 by its issuer, which has a key on a curve."""
    algorithm = {"algorithm": "sha1_ecdsa"}
    tbs = asn1.Certificate.load(certificate.public_bytes(Encoding.DER))["tbs_certificate"]
    tbs["signature"] = algorithm
    signature = issuer.key.sign(tbs.dump(force=True), ec.ECDSA(hashes.SHA1()))
    new = {"tbs_certificate": tbs, "signature_algorithm": algorithm, "signature_value": signature}
    return x509.load_der_x509_certificate(asn1.Certificate(new).dump())
