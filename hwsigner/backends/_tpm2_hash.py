"""Hash a message in the TPM, for restricted keys: they sign what the TPM itself hashed.

It gives a ticket for a message that can't be taken for a structure of its own, and such structures begin with
TPM_GENERATED_VALUE (TPM 2.0 Library, part 1, 25.3.1 and part 3, 15.4).
"""

from __future__ import annotations

from tpm2_pytss import ESYS_TR, TPMT_TK_HASHCHECK

from hwsigner.backends._tpm2_context import TPM
from hwsigner.errors import UnsupportedKeyError

_TPM_GENERATED = b"\xffTCG"
_BUFFER = 1024  # Every TPM takes so many bytes at once (TPM 2.0 Library, part 2, 10.4.8; PC Client profile, 4.6).


def hash_in_tpm(tpm: TPM, message: bytes, algorithm: int) -> tuple[bytes, TPMT_TK_HASHCHECK]:
    """Return the digest of a message, and the ticket that the TPM made it.

    Args:
        tpm: the TPM.
        message: the bytes themselves.
        algorithm: the hash's number (TPM 2.0 Library, part 2, 6.3).

    Raises:
        UnsupportedKeyError: it begins as the TPM's own structures do.
    """
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
