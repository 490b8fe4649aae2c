"""What a verifier finds about a key, and the proof that needs no vendor: the key itself signed the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwsigner.attestation.chain import UNREADABLE
from hwsigner.attestation.documents import Document, binding
from hwsigner.errors import AttestationError
from hwsigner.key.public_key import verify

PROOF_OF_POSSESSION = "The key signed the challenge"


@dataclass(frozen=True)
class Findings:
    """What is known about a key, in sentences.

    Attributes:
        public_key: the key's DER SubjectPublicKeyInfo (RFC 5280, 4.1).
        chip: what identifies the hardware: the SHA-256 of a TPM's endorsement key (its DER SubjectPublicKeyInfo) in
            hexadecimal, or a YubiKey's serial number.
        proven: what holds if the given roots are trusted. Empty before the answer to a challenge.
        claimed: what the other side says, and nothing shows.
        warnings: known weaknesses.
        in_hardware: whether it is proven that the key is in hardware and can't leave it. An answer can prove less: that
            the other side can use the key. A key that can be computed (ROCA) is not in hardware alone.
        uncertified: of a TPM whose endorsement key needs no vendor's certificate (`Trust.endorsement_keys`), what is
            wrong with that; otherwise empty.
        pcrs: of a TPM, the values of the PCRs that its attestation key quoted for this challenge, in hexadecimal, by
            names such as `sha256:7`.
        roots: of a YubiKey, the SHA-256 of each root (its DER) that alone is enough for the claims; of others, none.
        matches_csr: whether the certificate request is signed by this key; None if there is none.
    """

    public_key: bytes
    chip: str = ""
    proven: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    in_hardware: bool = False
    uncertified: str = ""
    pcrs: Mapping[str, str] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    matches_csr: bool | None = None


def verify_proof_of_possession(public_key: bytes, state: Document, answer: Document) -> None:
    """Verify that a key signed what binds the answer to its challenge, with SHA-256.

    No certificate, request, TLS handshake or AWS request starts like those bytes, so that the signature serves as
    nothing else, and none of theirs serves as an answer. If the key did not sign that, that is an AttestationError.
    """
    try:
        is_signed = verify(public_key, binding(state), signature=answer.blob("signature"))
    except UNREADABLE:
        is_signed = False
    if not is_signed:
        raise AttestationError("the statement's key did not sign the answer", "Answer with the key of the statement")
