"""Leaves: key usage, signatures, keys, names, validity and extensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from trial_aws.asking import Ask, of_leaf
from trial_aws.authority import LEAF, OF_CA, OF_LEAF, CertificateShape, Issued, TrialCA, usage
from trial_aws.forging import sha1_signed

_DAY, _SOON = timedelta(days=1), timedelta(minutes=2)
_NO_CA = (x509.BasicConstraints(ca=False, path_length=None), True)
_SIGNING_CA = (OF_CA[0], usage("digital_signature", "key_cert_sign"))
_SERVER_AUTH = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
_UNKNOWN = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1.1"), b"\x05\x00"), True)


def _with(*extensions: tuple[x509.ExtensionType, bool]) -> Ask:
    return of_leaf(replace(LEAF, extensions=extensions))


def _of_key(key: Any) -> Ask:
    return of_leaf(replace(LEAF, key=key))


def _sha1(ca: TrialCA) -> Issued:
    leaf = ca.leaf()
    return replace(leaf, certificate=sha1_signed(leaf.certificate, ca.intermediate))


def _of_ed25519(ca: TrialCA) -> Issued:
    shape = CertificateShape((("CN", "Ed25519 CA"),), extensions=OF_CA, key=ed25519.Ed25519PrivateKey.generate())
    return ca.leaf(LEAF, ca.issuer("ed25519", shape, ca.root))


ASKS: Mapping[str, Ask] = {
    "leaves.no-key-usage": _with(_NO_CA),
    "leaves.server-auth": _with(*OF_LEAF, _SERVER_AUTH),
    "leaves.ca-true": _with(*_SIGNING_CA),
    "leaves.sha-1": of_leaf(_sha1),
    "leaves.sha3-256": of_leaf(replace(LEAF, hash=hashes.SHA3_256())),
    "leaves.ed25519-ca": of_leaf(_of_ed25519),
    "leaves.rsa-1024": _of_key("RSA-1024"),
    "leaves.p-521": _of_key("P-521"),
    "leaves.p-224": _of_key(ec.generate_private_key(ec.SECP224R1())),
    "leaves.ed25519": _of_key(ed25519.Ed25519PrivateKey.generate()),
    "leaves.ml-dsa-65": _of_key("ML-DSA-65"),
    "leaves.empty-subject": of_leaf(replace(LEAF, subject=x509.Name([]), san=[x509.DNSName("leaf.example.com")])),
    "leaves.just-expired": of_leaf(replace(LEAF, begin=-2 * _DAY, end=-_SOON)),
    "leaves.valid-soon": of_leaf(replace(LEAF, begin=_SOON)),
    "leaves.unknown-critical": _with(*OF_LEAF, _UNKNOWN),
}
