"""The hierarchies, and the primary keys that they stand for as the parent of a key."""

from __future__ import annotations

from collections.abc import Callable

from tpm2_pytss import ESYS_TR, TPM2B_PUBLIC, TPMA_OBJECT

ESYS_HIERARCHIES = {
    "owner": ESYS_TR.RH_OWNER,
    "null": ESYS_TR.RH_NULL,
    "endorsement": ESYS_TR.RH_ENDORSEMENT,
    "platform": ESYS_TR.RH_PLATFORM,
}
_STORAGE = TPMA_OBJECT(
    TPMA_OBJECT.FIXEDTPM
    | TPMA_OBJECT.FIXEDPARENT
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT
)
_PROVISIONED = _STORAGE | TPMA_OBJECT.NODA


def _template(kind: str, attributes: int = _STORAGE) -> TPM2B_PUBLIC:
    return TPM2B_PUBLIC.parse(f"{kind}:aes128cfb", objectAttributes=TPMA_OBJECT(attributes))


def ecc_primary() -> TPM2B_PUBLIC:
    """Return the template that the key file's draft names: H-2 of TCG's EK Credential Profile, without a policy."""
    return _template("ecc256", _PROVISIONED)


def _zeros_ecc_primary() -> TPM2B_PUBLIC:
    template = ecc_primary()
    template.publicArea.unique.ecc.x = template.publicArea.unique.ecc.y = bytes(32)
    return template


def _zeros_rsa_primary() -> TPM2B_PUBLIC:
    template = _template("rsa2048", _PROVISIONED)
    template.publicArea.unique.rsa = bytes(256)
    return template


# The primary keys that may be meant, the likeliest first.
ECC: tuple[Callable[[], TPM2B_PUBLIC], ...] = (
    ecc_primary,  # The draft's own; tpm2-openssl, tpm2-pytss, ssh-tpm-agent.
    _zeros_ecc_primary,  # TCG's provisioning guidance; systemd.
    lambda: _template("ecc256"),  # tpm2_createprimary -G ecc
)
RSA: tuple[Callable[[], TPM2B_PUBLIC], ...] = (
    lambda: _template("rsa2048", _PROVISIONED),  # The draft's own, H-1 without a policy.
    _zeros_rsa_primary,  # TCG's provisioning guidance.
    lambda: _template("rsa2048"),  # tpm2_createprimary
)
# Where a file does not say that its parent is RSA. A TPM makes an RSA key of its seed in seconds.
ANY = (*ECC, RSA[-1])
