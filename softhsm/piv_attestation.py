"""Attestation certificates, which state that a key was generated on the card (Yubico's PIV attestation)."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from softhsm import tlv
from softhsm.piv_state import ATTESTATION, ATTESTATION_CERTIFICATE, PIN_NEVER, TOUCH_NEVER, PrivateKey, State, StoredKey

_ROOT = "Emulated PIV Root CA"
_INTERMEDIATE = "Yubico PIV Attestation"
_NOT_BEFORE = datetime.datetime(2016, 3, 14, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(2052, 4, 17, tzinfo=datetime.UTC)
_ARC = "1.3.6.1.4.1.41482.3."
_USB_A_KEYCHAIN = b"\x01"


def provision(state: State) -> None:
    """Give a new card an attestation key and certificate, as the factory does, issued by the card's own root."""
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.BasicConstraints(ca=True, path_length=1)
    root_certificate = _builder(_ROOT, _ROOT, root).add_extension(authority, critical=True).sign(root, hashes.SHA256())
    certificate = (
        _builder(_INTERMEDIATE, _ROOT, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_extension(3, bytes(state.firmware)), critical=False)
        .sign(root, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    state.keys[ATTESTATION] = StoredKey.of(key, PIN_NEVER, TOUCH_NEVER, generated=False)
    state.objects[ATTESTATION_CERTIFICATE] = wrap_certificate(certificate).hex()
    state.attestation_root = root_certificate.public_bytes(Encoding.PEM).decode()


def attest(state: State, slot: int) -> bytes:
    """Return the DER attestation certificate of the key in a slot."""
    stored, issuer = state.keys[slot], state.keys[ATTESTATION].private_key
    extensions = {
        3: bytes(state.firmware),
        7: tlv.encode(0x02, state.serial.to_bytes(state.serial.bit_length() // 8 + 1)),
        8: bytes([stored.pin_policy, stored.touch_policy]),
        9: _USB_A_KEYCHAIN,
    }
    builder = _builder(f"YubiKey PIV Attestation {slot:02x}", _INTERMEDIATE, stored.private_key)
    for number, value in extensions.items():
        builder = builder.add_extension(_extension(number, value), critical=False)
    return builder.sign(issuer, hashes.SHA256()).public_bytes(Encoding.DER)


def wrap_certificate(der: bytes) -> bytes:
    """Return the content of a certificate's data object, uncompressed (SP 800-73-4, part 1, table 10)."""
    return tlv.encode(0x70, der) + tlv.encode(0x71, b"\0") + tlv.encode(0xFE, b"")


def _builder(subject: str, issuer: str, key: PrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .public_key(key.public_key())
    )


def _extension(number: int, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_ARC}{number}"), value)
