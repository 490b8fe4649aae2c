"""What the public area of a TPM key allows: algorithm, hashes and schemes; digests and signatures of such a key."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_ECC,
    TPM2_RH,
    TPM2_ST,
    TPMA_OBJECT,
    TPMS_SCHEME_HASH,
    TPMT_ECC_SCHEME,
    TPMT_PUBLIC,
    TPMT_RSA_SCHEME,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_TK_HASHCHECK,
    TPMU_SIG_SCHEME,
)

from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import UnsupportedKeyError
from hwsigner.key import ECDSA, RSA, RSA_BITS, Algorithm, HashName

HASHES: dict[HashName, int] = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}
_HASH_NAMES = {number: name for name, number in HASHES.items()}
_CURVES = (TPM2_ECC.NIST_P256, TPM2_ECC.NIST_P384, TPM2_ECC.NIST_P521)
_USABLE = "Use a signing key that is RSASSA of 2048 to 4096 bits, or ECDSA on P-256, P-384 or P-521"

_NO_TICKET = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
_TPM_GENERATED = b"\xffTCG"
_BUFFER = 1024  # Every TPM takes this many bytes at once (TPM 2.0 Library, part 2, 10.4.8; PC Client profile, 4.6).
_ECDSA = int(TPM2_ALG.ECDSA)
_HEAD = struct.Struct(">HHH")  # The scheme, its hash, and the length of the first part.


class PublicArea:
    """What a key's public area says (TPM 2.0 Library, part 2, 12.2)."""

    def __init__(
        self,
        algorithm: Algorithm,
        public_key: bytes,
        only_hash: HashName | None,
        restricted: bool,
        risks_lockout: bool,
        name: str,
    ) -> None:
        self.algorithm: Final = algorithm  # The one of SigV4-X509.
        self.public_key: Final = public_key  # DER SubjectPublicKeyInfo.
        self.only_hash: Final = only_hash  # The one hash that the key signs with, or None for any.
        self.restricted: Final = restricted  # Whether the key signs only what the TPM itself hashed.
        self.risks_lockout: Final = risks_lockout  # Whether a wrong auth value counts towards the lockout.
        self.name: Final = name  # The TPM Name in hexadecimal (TPM 2.0 Library, part 1, 16).

    def scheme(self, hash: HashName) -> TPMT_SIG_SCHEME:
        """Return the signing scheme for a hash."""
        details = TPMS_SCHEME_HASH(hashAlg=HASHES[hash])
        if self.algorithm == ECDSA:
            return TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA, details=TPMU_SIG_SCHEME(ecdsa=details))
        return TPMT_SIG_SCHEME(scheme=TPM2_ALG.RSASSA, details=TPMU_SIG_SCHEME(rsassa=details))

    def digest(self, tpm: TPM, message: bytes, hash: HashName) -> tuple[bytes, TPMT_TK_HASHCHECK]:
        """Return the digest of a message, and for a restricted key the TPM's ticket that it made the digest itself."""
        if self.restricted:
            return _hash_in_tpm(tpm, message, HASHES[hash])
        return hashlib.new(hash, message).digest(), _NO_TICKET


def read_public_area(public: TPMT_PUBLIC, name: str) -> PublicArea:
    """Read a public area, before a signature is tried; raise an UnsupportedKeyError if the key can't make ours."""
    attributes = public.objectAttributes
    use = "decrypts and does not sign" if attributes & TPMA_OBJECT.DECRYPT else "does not sign"
    _refuse_if(not attributes & TPMA_OBJECT.SIGN_ENCRYPT, name, use)
    _refuse_if(public.type not in (TPM2_ALG.RSA, TPM2_ALG.ECC), name, "is neither RSA nor ECC")
    if public.type == TPM2_ALG.RSA:
        algorithm, own, parameters = RSA, TPM2_ALG.RSASSA, public.parameters.rsaDetail
        _refuse_if(parameters.keyBits not in RSA_BITS, name, f"has {parameters.keyBits} bits")
    else:
        algorithm, own, parameters = ECDSA, TPM2_ALG.ECDSA, public.parameters.eccDetail
        _refuse_if(parameters.curveID not in _CURVES, name, f"is on curve {TPM2_ECC(parameters.curveID)}")
    only_hash = _only_hash(parameters.scheme, own, name)
    try:
        public_key, tpm_name = public.to_der(), bytes(public.get_name()).hex()
    except ValueError as error:
        raise UnsupportedKeyError(f"key {name} has no usable public key: {error}", _USABLE) from error
    restricted, risks_lockout = bool(attributes & TPMA_OBJECT.RESTRICTED), not attributes & TPMA_OBJECT.NODA
    return PublicArea(algorithm, public_key, only_hash, restricted, risks_lockout, tpm_name)


def spki_of(public: TPMT_PUBLIC) -> bytes | None:
    """Return a public key as a DER SubjectPublicKeyInfo; None if it is neither RSA nor ECC."""
    try:
        return bytes(public.to_der())
    except ValueError:
        return None


def encoded(signature: TPMT_SIGNATURE) -> bytes:
    """Return an RSA signature's bytes, or an ECDSA signature in DER (RFC 3279, 2.2.3).

    The structure (TPM 2.0 Library, part 2, 11.3.4) is read from its marshalled form: reading the library's attributes
    takes ten times as long.
    """
    data: bytes = signature.marshal()
    scheme, _, size = _HEAD.unpack_from(data)
    first, rest = data[_HEAD.size : _HEAD.size + size], data[_HEAD.size + size + 2 :]
    if scheme != _ECDSA:
        return first
    der: bytes = encode_dss_signature(int.from_bytes(first), int.from_bytes(rest))
    return der


def _hash_in_tpm(tpm: TPM, message: bytes, algorithm: int) -> tuple[bytes, TPMT_TK_HASHCHECK]:
    """Return the digest of a message, and the ticket that the TPM made it."""
    if message.startswith(_TPM_GENERATED):
        raise UnsupportedKeyError(
            "a restricted TPM key does not sign a message that begins with TPM_GENERATED_VALUE",
            "Use an unrestricted key",
        )
    if len(message) <= _BUFFER:
        digest, ticket = tpm.esys.hash(message, algorithm, ESYS_TR.RH_OWNER)
        return bytes(digest), ticket
    *blocks, last = (message[start : start + _BUFFER] for start in range(0, len(message), _BUFFER))
    with tpm.temporary(lambda: tpm.esys.hash_sequence_start(b"", algorithm)) as sequence:
        for block in blocks:
            tpm.esys.sequence_update(sequence, block)
        digest, ticket = tpm.esys.sequence_complete(sequence, last, ESYS_TR.RH_OWNER)
    return bytes(digest), ticket


def _only_hash(scheme: TPMT_RSA_SCHEME | TPMT_ECC_SCHEME, own: TPM2_ALG, name: str) -> HashName | None:
    """Return the hash of a key that signs with one only, after checking that its scheme is SigV4-X509's."""
    if scheme.scheme == TPM2_ALG.NULL:
        return None
    _refuse_if(scheme.scheme != own, name, f"signs with {TPM2_ALG(scheme.scheme)} only")
    number = scheme.details.anySig.hashAlg
    _refuse_if(number not in _HASH_NAMES, name, f"signs with {TPM2_ALG(number)} only")
    return _HASH_NAMES[number]


def _refuse_if(condition: object, name: str, fault: str) -> None:
    if condition:
        raise UnsupportedKeyError(f"key {name} {fault}", _USABLE)
