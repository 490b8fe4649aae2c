"""Attestation certificates as YubiKeys and Yubico make them, and as they do not, and the documents made of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwsigner.attestation import Document, Trust
from hwsigner.attestation.chain import VendorCertificate
from hwsigner.attestation.documents import Value, binding, new

ARC = "1.3.6.1.4.1.41482.3"
FIRMWARE, SERIAL, POLICIES, FORM_FACTOR, FIPS, CSPN = (f"{ARC}.{number}" for number in (3, 7, 8, 9, 10, 11))
OLD_ROOT, OLD_F9 = "Yubico PIV Root CA Serial 263751", "Yubico PIV Attestation"
# What real ones have: firmware 5.4.3, serial number 10550341, PIN always, touch never, a USB-C Nano.
YUBIKEY = {FIRMWARE: b"\5\4\3", SERIAL: bytes.fromhex("020400a0fc45"), POLICIES: b"\3\1", FORM_FACTOR: b"\4"}
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


@dataclass
class Issued:
    """A certificate with its private key, which can issue others."""

    common_name: str
    key: Any = field(default_factory=new_key)
    der: bytes = b""

    def issue(
        self,
        common_name: str,
        key: Any = None,
        *,
        ca: bool | None = None,
        path_length: int | None = None,
        extensions: dict[str, bytes] | None = None,
        critical: bool = False,
        subject: x509.Name | None = None,
        begin: datetime = NOW - timedelta(days=365),
        end: datetime = NOW + timedelta(days=365),
    ) -> Issued:
        """Issue a certificate. `ca` is whether basicConstraints says CA:TRUE; without it, there are none."""
        issued = Issued(common_name, new_key() if key is None else key)
        builder = x509.CertificateBuilder(name(self.common_name), subject or name(common_name), issued.key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
        for oid, value in (extensions or {}).items():
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical=critical)
        issued.der = builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)
        return issued

    def issue_root(self, path_length: int | None = 1) -> Issued:
        return self.issue(self.common_name, self.key, ca=True, path_length=path_length)


@dataclass(frozen=True)
class Chain:
    """The certificates of a statement, and the root that its verifier trusts."""

    root: Issued
    f9: Issued
    slot: Issued
    intermediates: tuple[Issued, ...] = ()

    def but(self, **changes: Any) -> Chain:
        return replace(self, **changes)

    @property
    def trust(self) -> Trust:
        return Trust((VendorCertificate.read(self.root.der, "root"),), NOW)

    @property
    def statement(self) -> Document:
        own: dict[str, Value] = {"slotCertificate": self.slot.der, "attestationCertificate": self.f9.der}
        return new("statement", "piv", own | {"intermediates": tuple(one.der for one in self.intermediates)})

    @property
    def public_key(self) -> bytes:
        spki: bytes = self.slot.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return spki


def slot_of(f9: Issued, extensions: dict[str, bytes] = YUBIKEY, slot: str = "9a", **options: Any) -> Issued:
    """Issue the certificate of a slot."""
    return f9.issue(f"YubiKey PIV Attestation {slot}", extensions=extensions, **options)


def old_chain(
    extensions: dict[str, bytes] = YUBIKEY, *, path_length: int = 1, ca: bool | None = None, **options: Any
) -> Chain:
    """Return a chain as before firmware 5.7.4: f9 from the root, by default without basicConstraints."""
    root = Issued(OLD_ROOT).issue_root(path_length)
    f9 = root.issue(OLD_F9, ca=ca, path_length=0 if ca else None, extensions={FIRMWARE: b"\5\4\3"})
    return Chain(root, f9, slot_of(f9, extensions, **options))


def new_chain(path_lengths: tuple[int | None, int, int] = (3, 2, 1)) -> Chain:
    """Return a chain as from firmware 5.7.4: two intermediates."""
    root = Issued("Yubico Attestation Root 1").issue_root(path_lengths[0])
    upper = root.issue("Yubico Attestation Intermediate B 1", ca=True, path_length=path_lengths[1])
    lower = upper.issue("Yubico PIV Attestation B 1", ca=True, path_length=path_lengths[2])
    f9 = lower.issue("YubiKey PIV Attestation", ca=True, path_length=0, extensions={FIRMWARE: b"\5\7\4"})
    slot = slot_of(f9, {**YUBIKEY, FIRMWARE: b"\5\7\4"})
    return Chain(root, f9, slot, (lower, upper))


def answered(challenge: Document, key: Any) -> Document:
    """Return the answer that a key gives to a challenge."""
    message = binding(challenge)
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    else:
        signature = key.sign(message, ec.ECDSA(hashes.SHA256()))
    return new("answer", challenge.format, {"nonce": challenge.blob("nonce"), "signature": signature})
