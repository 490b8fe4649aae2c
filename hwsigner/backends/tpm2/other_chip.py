"""Whether a key is of another chip than the one that it was given to: the only reason to set it aside by itself.

A TPM that fails, a file that is damaged, and a storage root key that changed are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from hwsigner.backends.tpm2.errors import INTEGRITY
from hwsigner.backends.tpm2.key_file import HIERARCHIES, TSS2Key
from hwsigner.backends.tpm2.srk import pinned
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import OtherChipError, SigningKeyError


def check_other_chip(tpm: TPM, file: TSS2Key, name: str, refused: Sequence[tuple[str, int]]) -> None:
    """Raise an OtherChipError if a key without an auth value is of another chip, or of this one before it was cleared.

    `refused` has the Names of the parents under which TPM2_Load was tried on this connection, and its answers. The
    parent's Name in the file must be another one. If the file has none, the pinned storage root key must be neither one
    of them nor the TPM's. If the user said which one is right, with `srk-name`, nothing is another chip.
    """
    is_owners = HIERARCHIES.get(file.parent) == "owner"  # The null hierarchy's parent changes at each reset.
    may_be = is_owners and file.empty_auth and not file.secret and not tpm.settings.srk.name
    if not may_be or any(answer != INTEGRITY for _, answer in refused):
        return
    root, known, parents = tpm.root_name(), file.parent_name, [parent for parent, _ in refused]
    if not known:
        parents.append(root)
        with suppress(SigningKeyError):  # A pin that can't be trusted says nothing.
            known = pinned(tpm.tcti, tpm.settings.srk)
    if known and known not in parents:
        problem = f"key {name} is of another TPM than the one at {tpm.tcti}, or of this one before it was cleared"
        hint = "Use its own TPM; or run hwsigner enroll again, which sets the key aside and makes a new one"
        raise OtherChipError(problem, hint, key_chip=known, chip=parents[0], root=root)
