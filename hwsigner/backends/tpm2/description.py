"""What is known of a key of a TPM: where it is, and what guards it. Nothing is signed, and no auth value sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tpm2_pytss import TPM2B_PUBLIC, TPMA_OBJECT

from hwsigner.backends.tpm2.auth import ParentAuth
from hwsigner.backends.tpm2.connection import connected
from hwsigner.backends.tpm2.key_file import HIERARCHIES, PolicyCommand, TSS2Key
from hwsigner.backends.tpm2.objects import KeyObject
from hwsigner.backends.tpm2.policy_commands import (
    POLICY_AUTH_VALUE,
    POLICY_PASSWORD,
    POLICY_PCR,
    PolicyPCR,
    command_name,
    read_command,
)
from hwsigner.backends.tpm2.tcti import tcti_of
from hwsigner.backends.tpm2.tpm import TPM, SessionSettings
from hwsigner.backends.tpm2.uris import named_key
from hwsigner.management import KeyDescription
from hwsigner.pins import PinSource
from hwsigner.uri import KeyURI

_GUARDED_BY_AUTH = (POLICY_AUTH_VALUE, POLICY_PASSWORD)


def describe_key(uri: KeyURI, pins: PinSource) -> KeyDescription:
    """Return what is known of the key that a `tpm2:` URI names. A key file is read without asking the TPM.

    Args:
        uri: the key's URI.
        pins: not used; what is said is public.

    Raises:
        UsageError: the URI names neither a handle nor a file, or has an unknown attribute.
        BackendUnavailableError: the TPM can't be reached.
        KeyNotFoundError: there is nothing at the handle, or no such file.
        UnsupportedKeyError: the file holds no key, or is damaged.
    """
    _, file, key = named_key(uri, ParentAuth(uri, pins))
    return describe_file(uri, file) if file else describe_persistent(uri, key)


def describe_persistent(uri: KeyURI, key: KeyObject, has_auth: bool | None = None) -> KeyDescription:
    """Return what is known of the key at a persistent handle; raises as `describe_key`.

    Args:
        uri: its URI.
        key: the key.
        has_auth: whether it has an auth value; None if that is not known, as the handle does not say.
    """

    def read(tpm: TPM) -> bytes:
        with key.loaded(tpm) as loaded:
            return bytes(tpm.esys.read_public(loaded)[0].marshal())

    with connected(tcti_of(uri), key) as connection:
        facts = _Facts(connection.run(read, key.name, SessionSettings()), None, has_auth)
    handle = key.name.removeprefix("handle:")
    return facts.description(uri, f"the TPM, handle {handle}", {"handle": handle})


def describe_file(uri: KeyURI, file: TSS2Key) -> KeyDescription:
    """Return what is known of the key in a file, from its content."""
    parent = HIERARCHIES.get(file.parent)
    under = f"the primary key of the {parent} hierarchy" if parent else f"the key at handle {file.parent:#010x}"
    place = f"the file {uri.file}, for the TPM that made it, under {under}"
    return _Facts(file.public, file, not file.empty_auth).description(
        uri, place, {"path": uri.file, "parent": parent or f"{file.parent:#010x}"}
    )


@dataclass(frozen=True)
class _Facts:
    """What a key's public area and its file say.

    Attributes:
        public: the public area, a marshalled TPM2B_PUBLIC (TPM 2.0 Library, part 2, 12.2.5).
        file: the file, or None for a key at a handle.
        has_auth: whether the key has an auth value; None if that is not known.
    """

    public: bytes
    file: TSS2Key | None
    has_auth: bool | None

    def description(self, uri: KeyURI, place: str, where: dict[str, object]) -> KeyDescription:
        outer = TPM2B_PUBLIC.unmarshal(self.public)[0]  # Kept: what is inside is a part of its memory.
        area = outer.publicArea
        attributes, digest = int(area.objectAttributes), bytes(area.authPolicy).hex()
        try:
            public_key: bytes | None = outer.to_der()
        except ValueError:
            public_key = None  # Neither RSA nor ECC.
        flags = {name: bool(attributes & bit) for name, bit in _FLAGS.items()}
        properties = {
            **where,
            "name": bytes(outer.get_name()).hex(),
            **flags,
            "extractable": not (flags["fixedTPM"] and flags["fixedParent"]),
            "pin": self.has_auth,
            "pcrs": self._pcrs(),
            "policy": self._policy() if digest else [],
            "policyDigest": digest,
        }
        named = str(replace(uri, pin_value=None))
        return KeyDescription(named, place, public_key, tuple(self._guards(attributes, bool(digest))), properties)

    def _commands(self) -> tuple[PolicyCommand, ...]:
        return self.file.policy if self.file else ()

    def _policy(self) -> list[str] | None:
        """Return the names of the policy's commands; None if nothing lists them."""
        return [command_name(command.code) for command in self._commands()] or None

    def _pcrs(self) -> list[str]:
        commands = [read_command(command) for command in self._commands() if command.code == POLICY_PCR]
        return [str(pcr) for command in commands if isinstance(command, PolicyPCR) for pcr in command.pcrs]

    def _guards(self, attributes: int, has_policy: bool) -> Iterator[str]:
        yield from self._use_guards(attributes, has_policy)
        if self.has_auth is not False:
            counted = "are not counted: noDA is set" if attributes & TPMA_OBJECT.NODA else "can put the TPM in lockout"
            yield f"Wrong PINs {counted}"
        fixed = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
        if attributes & fixed == fixed:
            yield "The key can't leave its TPM: fixedTPM and fixedParent are set"
        else:
            yield "The key may be copied to another TPM: fixedTPM or fixedParent is not set"
        if not attributes & TPMA_OBJECT.SENSITIVEDATAORIGIN:
            yield "The key was made outside the TPM, so there may be copies of it"

    def _use_guards(self, attributes: int, has_policy: bool) -> Iterator[str]:
        """Yield what a signature needs."""
        by_auth = bool(attributes & TPMA_OBJECT.USERWITHAUTH)
        codes = {command.code for command in self._commands()}
        pcrs = self._pcrs()
        if pcrs and not by_auth:
            yield f"Signatures need the values in PCR {', '.join(pcrs)} for which the key was made"
        others = [name for name in self._policy() or [] if name not in _SAID]
        if has_policy and not by_auth and (others or not codes):
            yield f"Signatures need a policy to be satisfied: {', '.join(others) or 'a handle does not say which'}"
        if self.has_auth is None:
            yield "Signatures may need a PIN, the TPM auth value: a handle does not say"
        elif self.has_auth and (by_auth or codes.intersection(_GUARDED_BY_AUTH)):
            yield "Signatures need the key's PIN, its TPM auth value"
        elif not has_policy:
            read = " and read the file" if self.file else ""
            yield f"Signatures need no PIN: any user who may use the TPM{read} can sign"


_SAID = ("PolicyPCR", "PolicyAuthValue", "PolicyPassword")
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
