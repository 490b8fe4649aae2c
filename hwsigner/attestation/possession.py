"""A signature of the attested key over the challenge, which shows that the key is at hand."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm

from hwsigner.attestation.documents import NONCE_BYTES, Document, Value
from hwsigner.errors import AttestationError
from hwsigner.public_key import verify

# Nothing else that such a key signs starts like this: certificates and requests with a SEQUENCE, TLS with spaces,
# Signature Version 4 with "AWS4-".
_PREFIX = b"hwsigner attestation answer\0"
_DIGEST_BYTES = 32

PROVEN = "The key signed the challenge"


def message(values: Mapping[str, Value]) -> bytes:
    """Return what the key signs: the prefix, the SHA-256 of the statement, and the nonce.

    Args:
        values: the members of the challenge, or of the state that is kept of it.

    Raises:
        AttestationError: a member is too long or too short.
    """
    statement, nonce = values.get("statement"), values.get("nonce")
    if not isinstance(statement, bytes) or not isinstance(nonce, bytes):
        raise AttestationError("the challenge has no nonce", "Ask for it again")
    if (len(statement), len(nonce)) != (_DIGEST_BYTES, NONCE_BYTES):
        raise AttestationError("the challenge has a member of the wrong length", "Ask for it again")
    return _PREFIX + statement + nonce


def check_signature(public_key: bytes, state: Document, answer: Document) -> None:
    """Check the signature of an answer, with SHA-256 unless the kind of key has a hash of its own.

    Args:
        public_key: the key's DER SubjectPublicKeyInfo.
        state: the state of the challenge.
        answer: the answer.

    Raises:
        AttestationError: the key did not make it.
    """
    try:
        signed = verify(public_key, message(state.values), signature=answer.blob("signature"))
    except (ValueError, UnsupportedAlgorithm):
        signed = False
    if not signed:
        raise AttestationError("the answer is not signed by the key of the statement", "Answer with the same key")
