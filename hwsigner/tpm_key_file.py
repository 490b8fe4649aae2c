"""Write the key file of a TPM, a TSS2 PRIVATE KEY, from the parts that tpm2-tools leave in files."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

from hwsigner.key import load_backend


@dataclass(frozen=True)
class TPMKeyParts:
    """What is known of a TPM's key that lies in no file of its own yet.

    Attributes:
        public: the public area, a marshalled TPM2B_PUBLIC: what `tpm2_create -u` and `tpm2_import -u` write.
        private: the encrypted private area, a marshalled TPM2B_PRIVATE: what `tpm2_create -r` and `tpm2_duplicate -r`
            write.
        seed: of a key to import the seed that it is encrypted with, a marshalled TPM2B_ENCRYPTED_SECRET: what
            `tpm2_duplicate -s` writes; else empty.
        parent: `owner`, `endorsement`, `platform`, `null`, or a persistent handle such as `0x81000001`.
        has_auth: whether the key has an auth value.
        policy: the steps of the key's policy in their order: `pcr:sha256:0,7` for PCRs as they are in the TPM now, and
            `auth-value`. Needed where the key has not userWithAuth.
        description: what people call the key; tpm2-openssl 1.3 does not read a file with one.
        tcti: the TPM with the PCRs, or None for the usual one.
    """

    public: bytes
    private: bytes = field(repr=False)
    seed: bytes = b""
    parent: str = "owner"
    has_auth: bool = False
    policy: tuple[str, ...] = ()
    description: str = ""
    tcti: str | None = None


def encode_tpm_key(parts: TPMKeyParts) -> str:
    """Return the key file as PEM. Whether the TPM takes the key is seen when it is used.

    Raises:
        UsageError: the parent or a step of the policy can't be meant.
        UnsupportedKeyError: a part is damaged, or the policy is not the key's.
        BackendUnavailableError: the TPM is needed for its PCRs, and can't be reached.
    """
    load_backend("tpm2")  # Which says what to install, where that is missing.
    text: str = importlib.import_module("hwsigner.backends._tpm2_encode").encode_key(parts)
    return text
