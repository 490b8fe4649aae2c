"""What is known of a key of a TPM: where it is, and what guards it. Nothing is signed, and no auth value sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tpm2_pytss import TPM2B_PUBLIC, TPMA_OBJECT

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2.connection import connected
from hwsigner.backends.tpm2.key_file import HIERARCHIES, PolicyCommand, TSS2Key
from hwsigner.backends.tpm2.objects import LoadableKey, ParentAuth
from hwsigner.backends.tpm2.policy_commands import POLICY_PCR, PolicyPCR, command_name, read_command
from hwsigner.backends.tpm2.public_area import spki_of
from hwsigner.backends.tpm2.tpm import TPM, SessionSettings
from hwsigner.backends.tpm2.uris import named_key, tcti_of
from hwsigner.key.management import KeyDescription

_BY_AUTH = ("PolicyAuthValue", "PolicyPassword")
# By the name of the property.
_FLAGS = {
    "fixedTPM": TPMA_OBJECT.FIXEDTPM,
    "fixedParent": TPMA_OBJECT.FIXEDPARENT,
    "sensitiveDataOrigin": TPMA_OBJECT.SENSITIVEDATAORIGIN,
    "userWithAuth": TPMA_OBJECT.USERWITHAUTH,
    "adminWithPolicy": TPMA_OBJECT.ADMINWITHPOLICY,
    "noDA": TPMA_OBJECT.NODA,
    "restricted": TPMA_OBJECT.RESTRICTED,
    "decrypt": TPMA_OBJECT.DECRYPT,
    "sign": TPMA_OBJECT.SIGN_ENCRYPT,
}


def describe_key(uri: KeyURI, pins: PinSource) -> KeyDescription:
    """Return what is known of the key that a `tpm2:` URI names. A key file is read without asking the TPM.

    If there is no such key, that is a KeyNotFoundError.
    """
    _, file, key = named_key(uri, ParentAuth(uri, pins))
    return describe_file(uri, file) if file else describe_persistent(uri, key)


def describe_persistent(uri: KeyURI, key: LoadableKey, has_auth: bool | None = None) -> KeyDescription:
    """Return what is known of the key at a persistent handle. Whether it has an auth value, the handle does not say."""

    def read(tpm: TPM) -> bytes:
        with key.loaded(tpm) as loaded:
            return bytes(tpm.esys.read_public(loaded)[0].marshal())

    with connected(tcti_of(uri), key) as connection:
        public = connection.run(read, key.name, SessionSettings())
    handle = key.name.removeprefix("handle:")
    return _description(uri, f"the TPM, handle {handle}", {"handle": handle}, public, _Use(False, (), has_auth))


def describe_file(uri: KeyURI, file: TSS2Key) -> KeyDescription:
    """Return what is known of the key in a file, from its content."""
    parent = HIERARCHIES.get(file.parent)
    under = f"the primary key of the {parent} hierarchy" if parent else f"the key at handle {file.parent:#010x}"
    place = f"the TPM that made the file {uri.file}, under {under}"
    where = {"path": uri.file, "parent": parent or f"{file.parent:#010x}"}
    return _description(uri, place, where, file.public, _Use(True, file.policy, not file.empty_auth))


@dataclass(frozen=True)
class _Use:
    """What a key's file says of its use; for a key at a handle, that nothing is known.

    `has_auth` is None if that is not known.
    """

    in_file: bool
    policy: tuple[PolicyCommand, ...]
    has_auth: bool | None

    def pcrs(self) -> list[str]:
        """Return the PCRs that must have certain values."""
        commands = [read_command(command) for command in self.policy if command.code == POLICY_PCR]
        return [str(pcr) for command in commands if isinstance(command, PolicyPCR) for pcr in command.pcrs]


def _description(uri: KeyURI, place: str, where: Mapping[str, object], public: bytes, use: _Use) -> KeyDescription:
    """Return the description of a key with a marshalled TPM2B_PUBLIC (TPM 2.0 Library, part 2, 12.2.5)."""
    outer = TPM2B_PUBLIC.unmarshal(public)[0]  # Kept: what is inside is a part of its memory.
    attributes, digest = int(outer.publicArea.objectAttributes), bytes(outer.publicArea.authPolicy).hex()
    flags = {name: bool(attributes & bit) for name, bit in _FLAGS.items()}
    # None: nothing lists them.
    policy = ([command_name(command.code) for command in use.policy] or None) if digest else []
    properties = {
        **where,
        "name": bytes(outer.get_name()).hex(),
        **flags,
        "extractable": not (flags["fixedTPM"] and flags["fixedParent"]),
        "pin": use.has_auth,
        "pcrs": use.pcrs(),
        "policy": policy,
        "policyDigest": digest,
    }
    guards = *_use_guards(flags, policy, use), *_copy_guards(flags)
    return KeyDescription(str(uri), place, spki_of(outer.publicArea), guards, properties)


def _use_guards(flags: Mapping[str, bool], policy: Sequence[str] | None, use: _Use) -> Iterator[str]:
    """Yield what a signature needs. The policy is an empty list if there is none, and None if nothing lists it."""
    has_policy, by_auth, pcrs = policy != [], flags["userWithAuth"], use.pcrs()
    if pcrs and not by_auth:
        yield f"Signatures need the values in PCR {', '.join(pcrs)} for which the key was made"
    others = [name for name in policy or () if name not in ("PolicyPCR", *_BY_AUTH)]
    if has_policy and not by_auth and (others or policy is None):
        yield f"Signatures need a policy to be satisfied: {', '.join(others) or 'a handle does not say which'}"
    if use.has_auth is None:
        yield "Signatures may need a PIN, the TPM auth value: a handle does not say"
    elif use.has_auth and (by_auth or set(_BY_AUTH).intersection(policy or ())):
        yield "Signatures need the key's PIN, its TPM auth value"
    elif not has_policy:
        read = " and read the file" if use.in_file else ""
        yield f"Signatures need no PIN: any user who may use the TPM{read} can sign"
    if use.has_auth is not False:
        counted = "are not counted: noDA is set" if flags["noDA"] else "can put the TPM in lockout"
        yield f"Wrong PINs {counted}"


def _copy_guards(flags: Mapping[str, bool]) -> Iterator[str]:
    """Yield what keeps the key from being copied."""
    if flags["fixedTPM"] and flags["fixedParent"]:
        yield "The key can't leave its TPM: fixedTPM and fixedParent are set"
    else:
        yield "The key may be copied to another TPM: fixedTPM or fixedParent is not set"
    if not flags["sensitiveDataOrigin"]:
        yield "The key was made outside the TPM, so there may be copies of it"
