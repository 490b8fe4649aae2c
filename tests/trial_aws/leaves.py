"""Questions about leaves: key usage, signatures, keys, names, validity and extensions."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from hwsigner.trial.questions import choice
from trial_aws.asking import INSUFFICIENT, SESSION, of_leaf, usage
from trial_aws.authority import (
    LEAF,
    OF_CA,
    OF_LEAF,
    CertificateShape,
    Extensions,
    TrialCA,
    TrialIssuer,
    TrialLeaf,
)
from trial_aws.forging import sha1_signed, version_1
from trial_aws.plan import AWSRow
from trial_aws.sources import CERTIFICATE_RULES, QUOTED, SIGNING, VENDORS_CLIENT

_EMULATOR = "hwsigner/emulator/certificates.py"
_CHECKS = "docs/how-to/emulator.md#what-it-checks"
_STRICTER = "docs/how-to/emulator.md#what-it-does-not-check"
_FACTS = "docs/how-to/aws.md#what-aws-documents-and-what-was-only-observed"
_RULES, _COMMON = f"{_EMULATOR}: _leaf_problem", f"{_EMULATOR}: _common_problem"
_HASHES, _KEYS = f"{_EMULATOR}: _is_strongly_signed", f"{_EMULATOR}: _is_strong_key"
_DAY = timedelta(days=1)
_NO_CA = (x509.BasicConstraints(ca=False, path_length=None), True)
_SIGNS = usage("digital_signature")
_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1.1"), b"\x05\x00")
_UNDOCUMENTED = choice("AWS does not document the keys that it takes; these are the ones that clients and CAs use")
_PATHS = choice("so RFC 5280 has it; AWS names no standard but PKIX")
_NO_GRACE = choice("RFC 5280 has no tolerance, unlike a request's date")


def _row(name: str, words: str) -> AWSRow:
    return AWSRow(f"leaves.{name}", f"Does a leaf {words} get a session?", (_CHECKS,))


def _with(*extensions: tuple[x509.ExtensionType, bool]) -> CertificateShape:
    return replace(LEAF, extensions=extensions)


def _for_purposes(*purposes: x509.ObjectIdentifier, critical: bool = False) -> CertificateShape:
    return _with(*OF_LEAF, (x509.ExtendedKeyUsage(purposes), critical))


_NO_PURPOSE = choice("users write that clientAuth is required, but AWS's rules do not name an extended key usage")
_USAGES = (
    _row("no-key-usage", "without a key usage").expects(
        INSUFFICIENT, CERTIFICATE_RULES, of_leaf(_with(_NO_CA)), _RULES
    ),
    _row("key-encipherment", "with the key usage keyEncipherment only").expects(
        INSUFFICIENT, CERTIFICATE_RULES, of_leaf(_with(_NO_CA, usage("key_encipherment"))), _RULES
    ),
    _row("more-usages", "with the key usages digitalSignature, keyEncipherment and keyAgreement").expects(
        SESSION,
        CERTIFICATE_RULES,
        of_leaf(_with(_NO_CA, usage("digital_signature", "key_encipherment", "key_agreement"))),
        _RULES,
    ),
    _row("no-purpose", "without an extended key usage").expects(SESSION, _NO_PURPOSE, of_leaf(LEAF), _RULES),
    _row("client-auth", "with the extended key usage clientAuth").expects(
        SESSION, QUOTED, of_leaf(_for_purposes(ExtendedKeyUsageOID.CLIENT_AUTH)), _RULES
    ),
    _row("server-auth", "with the extended key usage serverAuth only").expects(
        SESSION, _NO_PURPOSE, of_leaf(_for_purposes(ExtendedKeyUsageOID.SERVER_AUTH)), _RULES
    ),
    _row("code-signing", "with a critical extended key usage of codeSigning only").expects(
        SESSION, _NO_PURPOSE, of_leaf(_for_purposes(ExtendedKeyUsageOID.CODE_SIGNING, critical=True)), _RULES
    ),
    _row("no-basic-constraints", "without basic constraints").expects(
        SESSION,
        choice("AWS's rules want CA: false, which RFC 5280 also reads in a certificate without basic constraints"),
        of_leaf(_with(_SIGNS)),
        _RULES,
    ),
    _row("ca-true", "with CA:TRUE").expects(
        INSUFFICIENT, CERTIFICATE_RULES, of_leaf(_with(OF_CA[0], usage("digital_signature", "key_cert_sign"))), _RULES
    ),
)


def _version_1(ca: TrialCA) -> TrialLeaf:
    leaf = ca.leaf()
    return replace(leaf, certificate=version_1(leaf.certificate, ca.intermediate))


def _sha1(ca: TrialCA) -> TrialLeaf:
    leaf = ca.leaf()
    return replace(leaf, certificate=sha1_signed(leaf.certificate, ca.intermediate))


def _pss(ca: TrialCA) -> TrialLeaf:
    issuer = _rsa_issuer(ca)
    leaf = ca.leaf(LEAF, issuer)
    old, key = leaf.certificate, issuer.key
    builder = x509.CertificateBuilder(
        old.issuer,
        old.subject,
        old.public_key(),
        old.serial_number,
        old.not_valid_before_utc.replace(tzinfo=None),
        old.not_valid_after_utc.replace(tzinfo=None),
        list(old.extensions),
    )
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    return replace(leaf, certificate=builder.sign(key, hashes.SHA256(), rsa_padding=pss))


def _rsa_issuer(ca: TrialCA) -> TrialIssuer:
    shape = CertificateShape((("CN", "RSA CA"),), extensions=OF_CA, key="RSA-2048")
    return ca.issuer("rsa", shape, ca.root)


def _of_ed25519(ca: TrialCA) -> TrialLeaf:
    shape = CertificateShape((("CN", "Ed25519 CA"),), extensions=OF_CA, key=ed25519.Ed25519PrivateKey.generate())
    return ca.leaf(LEAF, ca.issuer("ed25519", shape, ca.root))


def _hashed(algorithm: hashes.HashAlgorithm) -> CertificateShape:
    return replace(LEAF, hash=algorithm)


_SIGNATURES = (
    _row("version-1", "of X.509 version 1").expects(INSUFFICIENT, CERTIFICATE_RULES, of_leaf(_version_1), _RULES),
    _row("sha-1", "signed with SHA-1").expects(INSUFFICIENT, CERTIFICATE_RULES, of_leaf(_sha1), _HASHES),
    _row("sha-224", "signed with SHA-224").expects(
        INSUFFICIENT, CERTIFICATE_RULES, of_leaf(_hashed(hashes.SHA224())), _HASHES
    ),
    _row("sha-384", "signed with SHA-384").expects(
        SESSION, CERTIFICATE_RULES, of_leaf(_hashed(hashes.SHA384())), _HASHES
    ),
    _row("sha-512", "signed with SHA-512").expects(
        SESSION, CERTIFICATE_RULES, of_leaf(_hashed(hashes.SHA512())), _HASHES
    ),
    _row("sha3-256", "signed with SHA3-256").expects(
        INSUFFICIENT,
        choice("AWS wants SHA256 or stronger; few programs verify signatures with SHA-3"),
        of_leaf(_hashed(hashes.SHA3_256())),
        _HASHES,
        _FACTS,
    ),
    _row("pss", "that an RSA CA signed with RSASSA-PSS").expects(
        SESSION, choice("its hash is SHA-256, as AWS wants"), of_leaf(_pss), _HASHES
    ),
    _row("ed25519-ca", "that an Ed25519 CA signed").expects(
        INSUFFICIENT,
        choice("AWS wants SHA256 or stronger, and names RSA and ECDSA"),
        of_leaf(_of_ed25519),
        _HASHES,
        _FACTS,
    ),
)


def _of_key(key: Any) -> CertificateShape:
    return replace(LEAF, key=key)


def _exponent_3(ca: TrialCA) -> TrialLeaf:
    return ca.leaf(_of_key(rsa.generate_private_key(3, 2048)))


def _on_curve(curve: ec.EllipticCurve) -> Any:
    return lambda ca: ca.leaf(_of_key(ec.generate_private_key(curve)))


def _long_key(ca: TrialCA) -> TrialLeaf:
    return ca.leaf(_of_key(rsa.generate_private_key(65537, 5120)))


def _ed25519(ca: TrialCA) -> TrialLeaf:
    return ca.leaf(_of_key(ed25519.Ed25519PrivateKey.generate()))


_KEY_KINDS = (
    _row("rsa-1024", "with an RSA key of 1,024 bits").expects(
        INSUFFICIENT, _UNDOCUMENTED, of_leaf(_of_key("RSA-1024")), _KEYS, _STRICTER
    ),
    *(
        _row(f"rsa-{bits}", f"with an RSA key of {bits:,} bits").expects(
            SESSION, SIGNING, of_leaf(_of_key(f"RSA-{bits}")), _KEYS
        )
        for bits in (2048, 3072, 4096)
    ),
    _row("rsa-5120", "with an RSA key of 5,120 bits").expects(SESSION, _UNDOCUMENTED, of_leaf(_long_key), _KEYS),
    _row("rsa-exponent-3", "with an RSA key whose exponent is 3").expects(
        SESSION, _UNDOCUMENTED, of_leaf(_exponent_3), _KEYS
    ),
    _row("p-384", "with a P-384 key").expects(SESSION, VENDORS_CLIENT, of_leaf(_of_key("P-384")), _KEYS),
    _row("p-521", "with a P-521 key").expects(SESSION, VENDORS_CLIENT, of_leaf(_of_key("P-521")), _KEYS),
    _row("p-224", "with a P-224 key").expects(
        INSUFFICIENT, _UNDOCUMENTED, of_leaf(_on_curve(ec.SECP224R1())), _KEYS, _FACTS
    ),
    _row("secp256k1", "with a secp256k1 key").expects(
        INSUFFICIENT, _UNDOCUMENTED, of_leaf(_on_curve(ec.SECP256K1())), _KEYS, _FACTS
    ),
    _row("ed25519", "with an Ed25519 key").expects(INSUFFICIENT, _UNDOCUMENTED, of_leaf(_ed25519), _KEYS, _FACTS),
    *(
        _row(f"ml-dsa-{size}", f"with an ML-DSA-{size} key").expects(
            SESSION, SIGNING, of_leaf(_of_key(f"ML-DSA-{size}")), _KEYS
        )
        for size in (44, 65, 87)
    ),
)


def _outliving(ca: TrialCA) -> TrialLeaf:
    return ca.leaf(replace(LEAF, end=400 * _DAY))


def _extended(extension: x509.ExtensionType, *, critical: bool) -> CertificateShape:
    extensions: Extensions = (*OF_LEAF, (extension, critical))
    return replace(LEAF, extensions=extensions)


_OTHERS = (
    _row("empty-subject", "with an empty subject").expects(
        INSUFFICIENT,
        CERTIFICATE_RULES,
        of_leaf(replace(LEAF, subject=x509.Name([]), san=[x509.DNSName("leaf.example.com")])),
        _RULES,
        _FACTS,
    ),
    _row("expired", "that has expired").expects(
        INSUFFICIENT, _PATHS, of_leaf(replace(LEAF, begin=-2 * _DAY, end=-_DAY / 24)), _COMMON
    ),
    _row("just-expired", "that expired two minutes ago").expects(
        INSUFFICIENT, _NO_GRACE, of_leaf(replace(LEAF, begin=-2 * _DAY, end=-timedelta(minutes=2))), _COMMON
    ),
    _row("valid-soon", "that is valid in two minutes").expects(
        INSUFFICIENT, _NO_GRACE, of_leaf(replace(LEAF, begin=timedelta(minutes=2))), _COMMON
    ),
    _row("not-yet-valid", "that is not valid yet").expects(
        INSUFFICIENT, _PATHS, of_leaf(replace(LEAF, begin=_DAY / 24, end=_DAY)), _COMMON
    ),
    _row("outliving", "that expires after its CA").expects(SESSION, _PATHS, of_leaf(_outliving), _COMMON),
    _row("unknown-critical", "with an unknown critical extension").expects(
        INSUFFICIENT, _PATHS, of_leaf(_extended(_UNKNOWN, critical=True)), _COMMON
    ),
    _row("unknown-extension", "with an unknown extension that is not critical").expects(
        SESSION, _PATHS, of_leaf(_extended(_UNKNOWN, critical=False)), _COMMON
    ),
    _row("serial-20", "with a serial number of 20 bytes").expects(
        SESSION, _PATHS, of_leaf(replace(LEAF, serial=2**159 - 1)), "hwsigner/emulator/sessions.py: _check_scope"
    ),
)

QUESTIONS = (*_USAGES, *_SIGNATURES, *_KEY_KINDS, *_OTHERS)
