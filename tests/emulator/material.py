"""Certificates for the emulator's tests, which break one rule each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs import Authority, subject

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Form:
    """The contents of a certificate. The defaults make a leaf that the service accepts."""

    name: x509.Name | str = "build-7"
    ca: bool | None = False
    path_length: int | None = None
    usages: tuple[str, ...] | None = ("digital_signature",)
    begin: timedelta = -DAY
    end: timedelta = DAY
    hash: Any = hashes.SHA256
    serial: int | None = None
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()


CA_FORM = Form("An Intermediate", ca=True, usages=("key_cert_sign",))


def certificate(form: Form, public_key: Any, issuer: Authority | None, signing_key: Any = None) -> x509.Certificate:
    """Return a certificate for a public key. Without an issuer, signing_key signs it."""
    now = datetime.now(UTC)
    name = subject(form.name) if isinstance(form.name, str) else form.name
    key = issuer.key if issuer else signing_key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(public_key)
        .serial_number(form.serial or x509.random_serial_number())
        .not_valid_before(now + form.begin)
        .not_valid_after(now + form.end)
    )
    if form.ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(form.ca, form.path_length), critical=True)
    if form.usages is not None:
        builder = builder.add_extension(usage(*form.usages), critical=True)
    for extension, critical in form.extensions:
        builder = builder.add_extension(extension, critical=critical)
    has_hash = not any(kind in type(key).__name__.lower() for kind in ("mldsa", "ed25519"))
    return builder.sign(key, form.hash() if has_hash else None)


def authority(form: Form = CA_FORM, issuer: Authority | None = None) -> Authority:
    """Return a CA with a P-256 key; without an issuer, a root."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(certificate(form, key.public_key(), issuer, key), key)


def usage(*names: str) -> x509.KeyUsage:
    every = "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
    more = "key_cert_sign crl_sign encipher_only decipher_only"
    return x509.KeyUsage(**{name: name in names for name in f"{every} {more}".split()})


def version_1(public_key: Any, issuer: Authority) -> x509.Certificate:
    """Return an X.509 version 1 certificate, which has no extensions."""
    old = _load(certificate(Form(), public_key, issuer))
    names = [name for name, value in old["tbs_certificate"].native.items() if value is not None]
    kept = {name: old["tbs_certificate"][name] for name in names if name not in ("version", "extensions")}
    return _signed(asn1_x509.TbsCertificate(kept), issuer, hashes.SHA256(), "sha256_ecdsa")


def sha1_signed(form: Form, public_key: Any, issuer: Authority) -> x509.Certificate:
    """Return a certificate signed with SHA-1, which cryptography no longer does."""
    tbs = _load(certificate(form, public_key, issuer))["tbs_certificate"]
    tbs["signature"] = {"algorithm": "sha1_ecdsa"}
    return _signed(tbs, issuer, hashes.SHA1(), "sha1_ecdsa")


def _load(made: x509.Certificate) -> Any:
    return asn1_x509.Certificate.load(made.public_bytes(Encoding.DER))


def _signed(tbs: Any, issuer: Authority, algorithm: hashes.HashAlgorithm, name: str) -> x509.Certificate:
    signature = issuer.key.sign(tbs.dump(force=True), ec.ECDSA(algorithm))
    new = {"tbs_certificate": tbs, "signature_algorithm": {"algorithm": name}, "signature_value": signature}
    return x509.load_der_x509_certificate(asn1_x509.Certificate(new).dump())
