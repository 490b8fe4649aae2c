"""An answer that is a signature of the key itself: it shows that the key is at hand."""

from __future__ import annotations

from hwsigner.attestation.chain import UNREADABLE
from hwsigner.attestation.documents import Document, binding
from hwsigner.errors import AttestationError
from hwsigner.key.public_key import verify

PROOF_OF_POSSESSION = "The key signed the challenge"


def verify_proof_of_possession(public_key: bytes, state: Document, answer: Document) -> None:
    """Verify that a key signed what binds the answer to the challenge of a state, with SHA-256.

    No certificate, request, TLS handshake or AWS request starts like those bytes, so that the signature serves as
    nothing else, and none of theirs serves as an answer.

    Raises:
        AttestationError: the key did not.
    """
    try:
        is_signed = verify(public_key, binding(state), signature=answer.blob("signature"))
    except UNREADABLE:
        is_signed = False
    if not is_signed:
        raise AttestationError("the statement's key did not sign the answer", "Answer with the key of the statement")
