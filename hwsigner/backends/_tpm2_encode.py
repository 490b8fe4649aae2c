"""From the parts of a key to its file."""

from __future__ import annotations

import re

from tpm2_pytss import TPM2B_ENCRYPTED_SECRET, TPM2B_PRIVATE, TPM2B_PUBLIC

from hwsigner.backends._tpm2_connection import Connection
from hwsigner.backends._tpm2_objects import unmarshal
from hwsigner.backends._tpm2_pcrs import HASHES, PCR, read_values, select
from hwsigner.backends._tpm2_policies import read_policy
from hwsigner.backends._tpm2_policy_commands import POLICY_AUTH_VALUE, pcr_command
from hwsigner.backends._tpm2_tcti import tcti_of
from hwsigner.backends._tss2 import HIERARCHIES, PERSISTENT, PolicyCommand, TSS2Key
from hwsigner.backends._tss2_write import write_tss2_pem
from hwsigner.errors import UsageError
from hwsigner.tpm_key_file import TPMKeyParts
from hwsigner.uri import KeyURI

_SUBJECT = "to be written"
_PCRS = re.compile(r"pcr:(sha1|sha256|sha384|sha512):(\d{1,2}(?:,\d{1,2})*)", re.ASCII)
_PC_CLIENT_PCRS = range(24)


def encode_key(parts: TPMKeyParts) -> str:
    """Return the key file as PEM; see `hwsigner.tpm_key_file.encode_tpm_key`."""
    public = unmarshal(TPM2B_PUBLIC, parts.public, _SUBJECT).publicArea
    unmarshal(TPM2B_PRIVATE, parts.private, _SUBJECT)
    if parts.seed:
        unmarshal(TPM2B_ENCRYPTED_SECRET, parts.seed, _SUBJECT)
    hash_name = HASHES.get(public.nameAlg, "sha256")
    key = TSS2Key(
        empty_auth=not parts.has_auth,
        parent=_parent(parts.parent),
        public=parts.public,
        private=parts.private,
        secret=parts.seed,
        policy=tuple(_command(step, parts.tcti, hash_name) for step in parts.policy),
        description=parts.description,
    )
    read_policy(public, key, _SUBJECT)
    return write_tss2_pem(key)


def _parent(text: str) -> int:
    handles = {name: handle for handle, name in HIERARCHIES.items()}
    if text in handles:
        return handles[text]
    if re.fullmatch(r"0[xX][0-9a-fA-F]{8}", text) and int(text, 16) in PERSISTENT:
        return int(text, 16)
    raise UsageError(
        f"the parent is {text[:40]!r}", f"It is {', '.join(handles)}, or a handle from 0x81000000 to 0x81ffffff"
    )


def _command(step: str, tcti: str | None, hash_name: str) -> PolicyCommand:
    if step == "auth-value":
        return PolicyCommand(POLICY_AUTH_VALUE)
    found = _PCRS.fullmatch(step)
    numbers = sorted({int(number) for number in found[2].split(",")}) if found else []
    if found is None or numbers[-1] not in _PC_CLIENT_PCRS:
        raise UsageError(f"the policy has the step {step[:40]!r}", "Write pcr:sha256:0,7 or auth-value")
    bank = next(number for number, name in HASHES.items() if name == found[1])
    selection = select(PCR(bank, number) for number in numbers)
    uri = KeyURI("tpm2", {}, {} if tcti is None else {"tcti": tcti.encode("utf-8", "surrogateescape")})
    connection = Connection(tcti_of(uri), _SUBJECT)
    try:
        values = connection.run(lambda tpm: read_values(tpm.esys, selection))
    finally:
        connection.close()
    return pcr_command(selection, selection.digest(values, hash_name))
