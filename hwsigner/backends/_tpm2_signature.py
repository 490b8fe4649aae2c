"""A TPM's signature, as SigV4-X509 has it."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import TPM2_ALG, TPMT_SIGNATURE

_ECDSA = int(TPM2_ALG.ECDSA)
_HEAD = struct.Struct(">HHH")  # The scheme, its hash, and the length of the first part.


def encoded(signature: TPMT_SIGNATURE) -> bytes:
    """Return an RSA signature's bytes, or an ECDSA signature in DER (RFC 3279, 2.2.3).

    The structure (TPM 2.0 Library, part 2, 11.3.4) is read from its marshalled form: by the library's attributes, it
    takes ten times as long.
    """
    data: bytes = signature.marshal()
    scheme, _, size = _HEAD.unpack_from(data)
    first, rest = data[_HEAD.size : _HEAD.size + size], data[_HEAD.size + size + 2 :]
    if scheme != _ECDSA:
        return first
    der: bytes = encode_dss_signature(int.from_bytes(first), int.from_bytes(rest))
    return der
