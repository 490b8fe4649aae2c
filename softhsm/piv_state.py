"""The persistent state of a PIV card, in a JSON file: codes and their counters, keys, data objects."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

PIN = "123456"
PUK = "12345678"
MANAGEMENT_KEY = bytes(range(1, 9)) * 3

# Key references (SP 800-73-4, part 1, table 4b; Yubico's attestation key).
MANAGEMENT = 0x9B
ATTESTATION = 0xF9
ATTESTATION_CERTIFICATE = 0x5FFF01
SLOTS = (0x9A, 0x9C, 0x9D, 0x9E, *range(0x82, 0x96))

# Algorithm references (SP 800-78-4, table 6-2; Yubico's for AES and long RSA keys).
TDES, AES_128, AES_192, AES_256 = 0x03, 0x08, 0x0A, 0x0C
CIPHER_KEY_SIZES = {TDES: 24, AES_128: 16, AES_192: 24, AES_256: 32}
RSA_SIZES = {0x06: 1024, 0x07: 2048, 0x05: 3072, 0x16: 4096}
CURVES: dict[int, ec.EllipticCurve] = {0x11: ec.SECP256R1(), 0x14: ec.SECP384R1()}

PIN_NEVER, PIN_ONCE, PIN_ALWAYS = 1, 2, 3
TOUCH_NEVER, TOUCH_ALWAYS, TOUCH_CACHED = 1, 2, 3

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def pad(code: str) -> bytes:
    """Return a PIN or PUK as sent to the card: eight bytes, padded with FF (SP 800-73-4, part 2, 2.4.3)."""
    return code.encode().ljust(8, b"\xff")


def algorithm_of(key: PrivateKey) -> int:
    """Return the algorithm reference of a key.

    Raises:
        ValueError: PIV does not have this algorithm.
    """
    kind = str(key.key_size) if isinstance(key, rsa.RSAPrivateKey) else key.curve.name
    known = {str(size): number for number, size in RSA_SIZES.items()}
    known |= {curve.name: number for number, curve in CURVES.items()}
    if kind not in known:
        raise ValueError(f"PIV has no keys of the kind {kind}")
    return known[kind]


@dataclass
class Code:
    """The PIN or PUK: eight bytes in hexadecimal, the number of tries, and how many are left."""

    value: str
    tries: int = 3
    left: int = 3

    def set(self, value: bytes) -> None:
        """Set a new value and restore all tries."""
        self.value, self.left = value.hex(), self.tries


@dataclass
class StoredKey:
    """A private key in a slot: PKCS #8 DER in hexadecimal."""

    pkcs8: str
    algorithm: int
    pin_policy: int
    touch_policy: int
    generated: bool

    @classmethod
    def of(cls, key: PrivateKey, pin_policy: int, touch_policy: int, *, generated: bool) -> StoredKey:
        """Store a key with its policies."""
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return cls(der.hex(), algorithm_of(key), pin_policy, touch_policy, generated)

    @cached_property
    def private_key(self) -> PrivateKey:
        """The key, ready for use."""
        key = load_der_private_key(bytes.fromhex(self.pkcs8), None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(key, PrivateKey)  # noqa: S101
        return key


@dataclass
class State:
    """The memory of a card. `save` writes it to a file."""

    path: Path
    serial: int
    firmware: tuple[int, int, int]
    pin: Code = field(default_factory=lambda: Code(pad(PIN).hex()))
    puk: Code = field(default_factory=lambda: Code(pad(PUK).hex()))
    management_algorithm: int = TDES
    management_key: str = MANAGEMENT_KEY.hex()
    management_touch: int = TOUCH_NEVER
    keys: dict[int, StoredKey] = field(default_factory=dict)
    objects: dict[int, str] = field(default_factory=dict)
    attestation_root: str = ""

    def __post_init__(self) -> None:
        self.reset()

    @classmethod
    def load(cls, path: Path) -> State:
        """Load a saved card."""
        values: dict[str, Any] = json.loads(path.read_text())
        state = cls(path, values.pop("serial"), tuple(values.pop("firmware")))
        state.pin, state.puk = Code(**values.pop("pin")), Code(**values.pop("puk"))
        state.keys = {int(slot): StoredKey(**key) for slot, key in values.pop("keys").items()}
        state.objects = {int(tag): value for tag, value in values.pop("objects").items()}
        for name, value in values.items():
            setattr(state, name, value)
        return state

    def save(self) -> None:
        """Replace the file atomically."""
        values = {name: value for name, value in asdict(self).items() if name != "path"}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(values))
        os.replace(new, self.path)

    def reset(self) -> None:
        """Restore the factory settings. Only the attestation key and its certificate stay."""
        self.pin, self.puk = Code(pad(PIN).hex()), Code(pad(PUK).hex())
        self.management_algorithm = AES_192 if self.firmware >= (5, 7, 0) else TDES
        self.management_key, self.management_touch = MANAGEMENT_KEY.hex(), TOUCH_NEVER
        self.keys = {slot: key for slot, key in self.keys.items() if slot == ATTESTATION}
        self.objects = {tag: value for tag, value in self.objects.items() if tag == ATTESTATION_CERTIFICATE}
