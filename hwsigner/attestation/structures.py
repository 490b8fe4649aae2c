"""Structures of a TPM, read strictly (TPM 2.0 Library, part 2): public areas, attestations and signatures."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hwsigner.errors import AttestationError

# TPM_ALG_ID (6.3).
RSA, AES, NULL, RSASSA, RSAPSS, ECDSA, ECC, CFB = 0x01, 0x06, 0x10, 0x14, 0x16, 0x18, 0x23, 0x43
HASHES: dict[int, type[HashAlgorithm]] = {0x0B: SHA256, 0x0C: SHA384, 0x0D: SHA512}
HASH_NAMES = {0x0B: "sha256", 0x0C: "sha384", 0x0D: "sha512"}
BANKS = {0x04: "sha1", **HASH_NAMES}
# TPM_ECC_CURVE (6.4).
CURVES: dict[int, type[ec.EllipticCurve]] = {3: ec.SECP256R1, 4: ec.SECP384R1, 5: ec.SECP521R1}
RSA_BITS = range(2048, 4097)
# TPMA_OBJECT (8.3).
FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN, USER_WITH_AUTH = 1 << 1, 1 << 4, 1 << 5, 1 << 6
NO_DA, RESTRICTED, DECRYPT, SIGN = 1 << 10, 1 << 16, 1 << 17, 1 << 18
CERTIFY, QUOTE = 0x8017, 0x8018  # TPM_ST (6.9).
_GENERATED = b"\xffTCG"  # TPM_GENERATED_VALUE (6.2).
_DEFAULT_EXPONENT = 65537
_MAX_PCR_BYTES = 4

_Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class _Reader:
    """Reads a structure, whose name is for errors, from its start to its end."""

    def __init__(self, data: bytes, name: str) -> None:
        self._rest = data
        self._name = name

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        taken, self._rest = self._rest[:count], self._rest[count:]
        if len(taken) < count:
            raise self.refusal("is cut short")
        return taken

    def number(self, size: int) -> int:
        """Return the next unsigned number of this many bytes."""
        return int.from_bytes(self.take(size))

    def sized(self) -> bytes:
        """Return the next bytes with their count in front of them: a TPM2B structure."""
        return self.take(self.number(2))

    def end(self) -> None:
        """Check that nothing is left."""
        if self._rest:
            raise self.refusal(f"has {len(self._rest)} bytes too many")

    def refusal(self, problem: str) -> AttestationError:
        """Return the error that the structure is invalid."""
        return AttestationError(f"{self._name} {problem}", "Make it again: it was changed or damaged")


@dataclass(frozen=True)
class Public:
    """A public area: TPMT_PUBLIC (12.2.4)."""

    data: bytes
    type: int  # `RSA` or `ECC`.
    name_hash: int  # The number of the hash of its Name.
    attributes: int  # TPMA_OBJECT.
    policy: bytes  # The digest of its policy; empty for none.
    cipher: tuple[int, int, int]  # A storage key's symmetric algorithm, its bits and mode; otherwise NULL, 0 and 0.
    key: _Key

    @property
    def name(self) -> bytes:
        """The TPM Name: the number of its hash, and the hash of the public area (part 1, 16)."""
        return struct.pack(">H", self.name_hash) + hashlib.new(HASH_NAMES[self.name_hash], self.data).digest()

    @property
    def spki(self) -> bytes:
        """The key as DER SubjectPublicKeyInfo."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def has(self, *attributes: int) -> bool:
        """Return whether all of these attributes are set."""
        return all(self.attributes & attribute for attribute in attributes)


class Certified(NamedTuple):
    """What TPM2_Certify attests: TPMS_ATTEST with TPMS_CERTIFY_INFO (10.12.3)."""

    extra_data: bytes
    firmware: int
    name: bytes


class Quoted(NamedTuple):
    """What TPM2_Quote attests: TPMS_ATTEST with TPMS_QUOTE_INFO (10.12.4)."""

    extra_data: bytes  # What the caller had the TPM sign with it.
    selection: bytes  # The TPML_PCR_SELECTION (10.9.7) of the PCRs.
    pcrs: tuple[tuple[int, int], ...]  # In order: the number of the bank's hash, and the PCR's own.
    digest: bytes  # Of their values.


def read_public(data: bytes, name: str) -> Public:
    """Read a TPMT_PUBLIC of an RSA or ECC key.

    One that is invalid, or of an algorithm that is not known here, is an AttestationError. Errors call it `name`.
    """
    reader = _Reader(data, name)
    kind, name_hash, attributes, policy = reader.number(2), reader.number(2), reader.number(4), reader.sized()
    if kind not in (RSA, ECC) or name_hash not in HASHES:
        raise reader.refusal("is of a kind that is not known here")
    algorithm = reader.number(2)
    cipher = (algorithm, 0, 0) if algorithm == NULL else (algorithm, reader.number(2), reader.number(2))
    scheme = reader.number(2)
    if scheme not in (NULL, RSASSA, RSAPSS, ECDSA):  # Others, such as ECDAA, have more than a hash.
        raise reader.refusal("has a scheme that is not known here")
    if scheme != NULL:
        reader.number(2)  # The hash of the scheme.
    key = _rsa_key(reader) if kind == RSA else _ecc_key(reader)
    reader.end()
    return Public(data, kind, name_hash, attributes, policy, cipher, key)


def read_certified(data: bytes) -> Certified:
    """Read a TPMS_ATTEST of TPM2_Certify. An invalid one is an AttestationError."""
    reader = _Reader(data, "the certification")
    extra_data, firmware = _attested(reader, CERTIFY)
    name = reader.sized()
    reader.sized()  # The qualified name.
    reader.end()
    return Certified(extra_data, firmware, name)


def read_quoted(data: bytes) -> Quoted:
    """Read a TPMS_ATTEST of TPM2_Quote. An invalid one is an AttestationError."""
    reader = _Reader(data, "the quote")
    extra_data, _ = _attested(reader, QUOTE)
    pcrs, banks = [], []
    for _ in range(reader.number(4)):
        bank, size = reader.number(2), reader.number(1)
        if size > _MAX_PCR_BYTES:
            raise reader.refusal("selects PCRs that no TPM has")
        selected = reader.take(size)
        banks.append(struct.pack(">HB", bank, size) + selected)
        bits = int.from_bytes(selected, "little")
        pcrs += [(bank, number) for number in range(8 * size) if bits >> number & 1]
    digest = reader.sized()
    reader.end()
    return Quoted(extra_data, struct.pack(">I", len(banks)) + b"".join(banks), tuple(pcrs), digest)


def verify_signature(public: Public, signature: bytes, message: bytes, name: str) -> str:
    """Check the TPMT_SIGNATURE (11.3.4) of a message, which is one of ECDSA, and return the name of its hash.

    If it is invalid, or the key did not make it, that is an AttestationError.
    """
    reader = _Reader(signature, f"the signature of {name}")
    scheme, hash_number = reader.number(2), reader.number(2)
    if scheme != ECDSA or hash_number not in HASHES or not isinstance(public.key, ec.EllipticCurvePublicKey):
        raise reader.refusal("is of a kind that is not known here")
    r, s = int.from_bytes(reader.sized()), int.from_bytes(reader.sized())
    reader.end()
    try:
        public.key.verify(encode_dss_signature(r, s), message, ec.ECDSA(HASHES[hash_number]()))
    except InvalidSignature as error:
        problem = f"{name} was not signed by the statement's attestation key"
        raise AttestationError(problem, "It was changed, or is of another chip") from error
    return HASH_NAMES[hash_number]


def _rsa_key(reader: _Reader) -> rsa.RSAPublicKey:
    bits, exponent, modulus = reader.number(2), reader.number(4), int.from_bytes(reader.sized())
    try:
        if modulus.bit_length() != bits or bits not in RSA_BITS or not modulus % 2:
            raise ValueError("not as long as it says, or no TPM has such a key")
        return rsa.RSAPublicNumbers(exponent or _DEFAULT_EXPONENT, modulus).public_key()
    except ValueError as error:
        raise reader.refusal("has no valid RSA key") from error


def _ecc_key(reader: _Reader) -> ec.EllipticCurvePublicKey:
    curve = CURVES.get(reader.number(2))
    if reader.number(2) != NULL:  # The key derivation function, and its hash.
        reader.number(2)
    x, y = int.from_bytes(reader.sized()), int.from_bytes(reader.sized())
    try:
        if curve is None:
            raise ValueError("unknown curve")
        return ec.EllipticCurvePublicNumbers(x, y, curve()).public_key()
    except ValueError as error:
        raise reader.refusal("has no valid key on P-256, P-384 or P-521") from error


def _attested(reader: _Reader, kind: int) -> tuple[bytes, int]:
    """Read the head of a TPMS_ATTEST (10.12.12); return its extraData and the version of the firmware."""
    if reader.take(4) != _GENERATED:
        raise reader.refusal("was not made by a TPM")
    if reader.number(2) != kind:
        raise reader.refusal("is an attestation of another kind")
    reader.sized()  # The qualified name of the signing key.
    extra_data = reader.sized()
    reader.take(8 + 4 + 4 + 1)  # The clock, resets and restarts, and whether the clock is safe.
    return extra_data, reader.number(8)
