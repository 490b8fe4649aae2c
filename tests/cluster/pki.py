"""The certificates of a cluster."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import certs

_USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
_CA_USES = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


def make_cluster_ca(*, has_key_usage: bool = True, has_identifier: bool = True) -> certs.Authority:
    """Return a CA like kubeadm's, or without key usage or key identifier, as some distributions made it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    builder = _begin(name, name, key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    if has_key_usage:
        usage = _usage("digital_signature", "key_encipherment", "key_cert_sign")
        builder = builder.add_extension(usage, critical=True)
    if has_identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return certs.Authority(builder.sign(key, SHA256()), key)


def write_server(ca: certs.Authority, folder: Path) -> None:
    """Write an API server's key and certificate, or new ones: `server.key` and `server.crt`."""
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.DNSName("kubernetes.default.svc")]
    names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    _write(ca, folder, "server", {"CN": "kube-apiserver"}, x509.SubjectAlternativeName(names))


def write_client(ca: certs.Authority, folder: Path, name: str, user: str, group: str) -> None:
    """Write the key and certificate of a user of the API: `NAME.key` and `NAME.crt`."""
    _write(ca, folder, name, {"O": group, "CN": user}, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))


def _write(
    ca: certs.Authority, folder: Path, name: str, subject: dict[str, str], extension: x509.ExtensionType
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    oids = {"O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME}
    subject_name = x509.Name([x509.NameAttribute(oids[part], value) for part, value in subject.items()])
    issuer_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    certificate = (
        _begin(subject_name, ca.certificate.subject, key.public_key())
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(issuer_identifier, critical=False)
        .add_extension(extension, critical=False)
        .sign(ca.key, SHA256())
    )
    # The API server looks at both at once if either changes, and tries again when they don't fit.
    new = certs.write_key(folder / "new", key)
    new.replace(folder / f"{name}.key")
    new.write_bytes(certs.pem(certificate))
    new.replace(folder / f"{name}.crt")


def _begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(certs.ago(1)).not_valid_after(certs.ago(1) + timedelta(days=30))


def _usage(*uses: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in uses for use in (*_USES, *_CA_USES)})
