"""A CA for one trial, and the certificates that the questions need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from hwsigner.trial.questions import NotAskedError

Names = Sequence[tuple[str, str]]
Extensions = Sequence[tuple[x509.ExtensionType, bool]]
_DAY = timedelta(days=1)
_CURVES: dict[str, ec.EllipticCurve] = {"256": ec.SECP256R1(), "384": ec.SECP384R1(), "521": ec.SECP521R1()}
_OIDS = {
    "CN": NameOID.COMMON_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "SN": NameOID.SURNAME,
    "GN": NameOID.GIVEN_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
    "E": NameOID.EMAIL_ADDRESS,
    "UID": NameOID.USER_ID,
}


def usage(*names: str) -> tuple[x509.KeyUsage, bool]:
    """Return a critical key usage, by the names of cryptography, such as "digital_signature"."""
    every = "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
    more = "key_cert_sign crl_sign encipher_only decipher_only"
    return x509.KeyUsage(**{each: each in names for each in f"{every} {more}".split()}), True


OF_LEAF: Extensions = ((x509.BasicConstraints(ca=False, path_length=None), True), usage("digital_signature"))
OF_CA: Extensions = (
    (x509.BasicConstraints(ca=True, path_length=None), True),
    usage("key_cert_sign", "crl_sign"),
)


@dataclass(frozen=True)
class Issued:
    """A certificate of a CA or a leaf, its key, and the chain to send with the leaf, or with the leaves of the CA."""

    certificate: x509.Certificate
    key: Any = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True)
class CertificateShape:
    """What a certificate is to contain. The defaults make a leaf that the service accepts.

    Attributes:
        subject: names and values, such as ("CN", "web"); a name may be an OID with dots. Or a name as it is.
        san: the subject alternative names.
        extensions: the other extensions, each with whether it is critical.
        identifiers: whether key identifiers are added, if there are other extensions.
        key: "P-256", "P-384", "P-521", "RSA-2048" (or another size), "ML-DSA-44" (or -65, -87), or a private key.
        begin: when it begins to be valid, from now.
        end: when it ends, from now.
        serial: the serial number; 0 for a random one.
        hash: the hash of its signature.
        signing_key: another key to sign it with than the issuer's; None for the issuer's.
    """

    subject: Names | x509.Name = (("O", "hwsigner trial"), ("CN", "leaf"))
    san: Sequence[x509.GeneralName] = ()
    extensions: Extensions = OF_LEAF
    identifiers: bool = True
    key: Any = "P-256"
    begin: timedelta = -_DAY
    end: timedelta = 2 * _DAY
    serial: int = 0
    hash: hashes.HashAlgorithm | None = field(default_factory=hashes.SHA256)
    signing_key: Any = field(default=None, repr=False)


LEAF = CertificateShape()
A_CA = CertificateShape((("O", "hwsigner trial"), ("CN", "another CA")), extensions=OF_CA)


_ROOT = replace(A_CA, subject=(("O", "hwsigner trial"), ("CN", "root")))
_INTERMEDIATE = replace(
    A_CA,
    subject=(("O", "hwsigner trial"), ("CN", "intermediate")),
    extensions=((x509.BasicConstraints(ca=True, path_length=0), True), OF_CA[1]),
)


class TrialCA:
    """The CAs of one trial: the root, and the intermediate CA that it issued. Their keys are in memory only."""

    def __init__(self) -> None:
        self._keys: dict[str, Any] = {}
        self._issuers: dict[str, Issued] = {}
        self.root = self.issuer("root", _ROOT)
        self.intermediate = self.issuer("intermediate", _INTERMEDIATE, self.root)

    def key(self, kind: str) -> Any:
        """Return the trial's key of a kind, such as "P-256" or "RSA-2048".

        Raises:
            NotAskedError: this version of cryptography can't make one.
        """
        if kind not in self._keys:
            self._keys[kind] = new_key(kind)
        return self._keys[kind]

    def issuer(self, name: str, shape: CertificateShape = A_CA, issuer: Issued | None = None) -> Issued:
        """Return the CA of this name, which is made by the first call. Without an issuer, it is a root."""
        if name not in self._issuers:
            key = new_key(shape.key) if isinstance(shape.key, str) else shape.key
            certificate = self._issue(shape, key, issuer)
            self._issuers[name] = Issued(certificate, key, (certificate, *issuer.chain) if issuer else ())
        return self._issuers[name]

    def leaf(self, shape: CertificateShape = LEAF, issuer: Issued | None = None) -> Issued:
        """Return a new leaf of an issuer, or of the intermediate."""
        issuer, key = issuer or self.intermediate, self.key(shape.key) if isinstance(shape.key, str) else shape.key
        return Issued(self._issue(shape, key, issuer), key, issuer.chain)

    def revocation_list(self, serials: Iterable[int], issuer: Issued | None = None, *, end: timedelta = _DAY) -> bytes:
        """Return a CRL in PEM of an issuer, or of the intermediate, with the next update at `end` from now."""
        issuer, now = issuer or self.intermediate, datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
        builder = builder.last_update(now - 2 * _DAY).next_update(now + end)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _DAY)
            builder = builder.add_revoked_certificate(revoked.build())
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        digest = hashes.SHA256() if _is_hashed(issuer.key) else None
        return builder.sign(issuer.key, digest).public_bytes(Encoding.PEM)

    def _issue(self, shape: CertificateShape, key: Any, issuer: Issued | None) -> x509.Certificate:
        now, subject = datetime.now(UTC), name_of(shape.subject)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(shape.serial or x509.random_serial_number())
            .not_valid_before(now + shape.begin)
            .not_valid_after(now + shape.end)
        )
        for extension, critical in (*shape.extensions, *_identifiers(shape, key, issuer)):
            builder = builder.add_extension(extension, critical=critical)
        if shape.san:
            builder = builder.add_extension(x509.SubjectAlternativeName(shape.san), critical=False)
        signing_key = shape.signing_key or (issuer.key if issuer else key)
        try:
            return builder.sign(signing_key, shape.hash if _is_hashed(signing_key) else None)  # type: ignore[arg-type]
        except Exception as error:
            raise NotAskedError(f"this version of cryptography can't make the certificate: {error}") from error


def _is_hashed(key: Any) -> bool:
    """Return whether a key signs hashes, and not messages."""
    return isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)


def _identifiers(shape: CertificateShape, key: Any, issuer: Issued | None) -> Extensions:
    """Return the key identifiers that RFC 5280 wants, without those that the shape has."""
    by: Any = issuer.certificate.public_key() if issuer else key.public_key()
    found: list[x509.ExtensionType] = [x509.SubjectKeyIdentifier.from_public_key(key.public_key())]
    found += [x509.AuthorityKeyIdentifier.from_issuer_public_key(by)] if issuer else []
    given = {extension.oid for extension, _ in shape.extensions}
    return [(each, False) for each in found if given and shape.identifiers and each.oid not in given]


def name_of(names: Names | x509.Name) -> x509.Name:
    """Return a distinguished name of names and values."""
    if isinstance(names, x509.Name):
        return names
    oids = ((_OIDS.get(name) or ObjectIdentifier(name), value) for name, value in names)
    return x509.Name([x509.NameAttribute(oid, value, _validate=False) for oid, value in oids])


def new_key(kind: str) -> Any:
    """Return a new private key of a kind, such as "P-256", "RSA-2048" or "ML-DSA-65".

    Raises:
        NotAskedError: this version of cryptography can't make one.
    """
    family, _, size = kind.rpartition("-")
    if family == "P":
        return ec.generate_private_key(_CURVES[size])
    if family == "RSA":
        return rsa.generate_private_key(65537, int(size))
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa

        return getattr(mldsa, f"MLDSA{size}PrivateKey").generate()
    except Exception as error:
        raise NotAskedError(f"this version of cryptography or OpenSSL has no {kind}") from error


def sign_with(key: Any, message: bytes) -> bytes:
    """Return the signature that SigV4-X509 wants of a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

        return key.sign(message, PKCS1v15(), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(hashes.SHA256()))
    signature: bytes = key.sign(message)
    return signature


def algorithm_of(key: Any) -> str:
    """Return the algorithm of SigV4-X509 that belongs to a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "AWS4-X509-RSA-SHA256"
    return "AWS4-X509-ECDSA-SHA256" if isinstance(key, ec.EllipticCurvePrivateKey) else "AWS4-X509-MLDSA"
