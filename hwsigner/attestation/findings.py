"""What a verifier has found about a key."""

from __future__ import annotations

from dataclasses import dataclass


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
        matches_csr: whether the certificate request is signed by this key; None if there is none.
    """

    public_key: bytes
    chip: str = ""
    proven: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    in_hardware: bool = False
    matches_csr: bool | None = None
