"""Commands of a policy: reading them from a key file, what they make of the policy's digest, and executing them.

A policy's digest starts as zeros and each command extends it (TPM 2.0 Library, part 3, 23). The key has the digest that
all of them must lead to.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple, Protocol, TypeVar

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CC,
    TPM2B_DIGEST,
    TPM2B_PUBLIC,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMT_SIGNATURE,
    TSS2_Exception,
)

from hwsigner.backends.tpm2.errors import HASH, SIGNATURE, VALUE, code
from hwsigner.backends.tpm2.key_file import PolicyCommand
from hwsigner.backends.tpm2.tpm import TPM

# The hashes of PCR banks, names and policies (TPM 2.0 Library, part 2, 6.3).
HASHES = {0x4: "sha1", 0xB: "sha256", 0xC: "sha384", 0xD: "sha512"}
POLICY_AUTHORIZE, POLICY_AUTH_VALUE, POLICY_OR, POLICY_PCR, POLICY_PASSWORD = 0x16A, 0x16B, 0x171, 0x17F, 0x18C
_NO_SIGNATURE = b"\0\x10"  # TPM_ALG_NULL
_Structure = TypeVar("_Structure", TPM2B_DIGEST, TPM2B_PUBLIC, TPML_DIGEST, TPML_PCR_SELECTION, TPMT_SIGNATURE)


class NotSatisfiedError(Exception):
    """A command of a policy that can't be satisfied now. Its text says why."""


class UnknownCommandError(Exception):
    """A command that hwsigner does not know. Its text names it."""


class ExecutableCommand(Protocol):
    """A command of a policy."""

    def extended(self, digest: bytes | None, hash_name: str) -> bytes | None:
        """Return what it makes of a policy's digest. None stands for one that is not known before the execution.

        If it can't follow what led to this digest, that is a ValueError.
        """
        ...

    def run(self, tpm: TPM, session: ESYS_TR, hash_name: str) -> None:
        """Execute it; raise a NotSatisfiedError if it can't be satisfied now."""
        ...


class PCR(NamedTuple):
    """One PCR (TPM 2.0 Library, part 1, 17): the number of its bank's hash algorithm, and its own number."""

    bank: int
    number: int

    def __str__(self) -> str:
        return f"{HASHES.get(self.bank) or TPM2_ALG(self.bank)}:{self.number}"


class PolicyPCR(NamedTuple):
    """PCRs must have values that make this digest; without one, those that they have when the key is used."""

    pcrs: tuple[PCR, ...]
    selection: bytes  # The same, a marshalled TPML_PCR_SELECTION (TPM 2.0 Library, part 2, 10.9.7).
    digest: bytes  # Of all values, or empty.

    def extended(self, digest: bytes | None, hash_name: str) -> bytes | None:
        """See `ExecutableCommand`."""
        if digest is None or not self.digest:
            return None
        return _hash(hash_name, digest, _code(POLICY_PCR), self.selection, self.digest)

    def run(self, tpm: TPM, session: ESYS_TR, hash_name: str) -> None:
        """See `ExecutableCommand`. The policy has one digest of all PCRs, so it does not show which of them differ."""
        try:
            tpm.esys.policy_pcr(session, self.digest, TPML_PCR_SELECTION.unmarshal(self.selection)[0])
        except TSS2_Exception as error:
            if code(error) not in (VALUE, HASH):
                raise
            selected = ", ".join(map(str, self.pcrs))
            if code(error) == HASH:
                raise NotSatisfiedError(f"this TPM lacks a bank of PCR {selected}") from error
            fault = " has" if len(self.pcrs) == 1 else ": at least one has"
            raise NotSatisfiedError(f"PCR {selected}{fault} another value than the policy wants") from error


class PolicyAuthValue:
    """The key's auth value must be proven. PolicyPassword extends a digest the same, and sends the value itself."""

    def extended(self, digest: bytes | None, hash_name: str) -> bytes | None:
        """See `ExecutableCommand`."""
        return None if digest is None else _hash(hash_name, digest, _code(POLICY_AUTH_VALUE))

    def run(self, tpm: TPM, session: ESYS_TR, hash_name: str) -> None:
        """See `ExecutableCommand`."""
        tpm.esys.policy_auth_value(session)


class PolicyOR(NamedTuple):
    """The commands before it must have led to one of these digests."""

    digests: tuple[bytes, ...]

    def extended(self, digest: bytes | None, hash_name: str) -> bytes | None:
        """See `ExecutableCommand`."""
        if digest is not None and digest not in self.digests:
            raise ValueError("the commands before a PolicyOR are none of its branches")
        return _hash(hash_name, _zeros(hash_name), _code(POLICY_OR), *self.digests)

    def run(self, tpm: TPM, session: ESYS_TR, hash_name: str) -> None:
        """See `ExecutableCommand`."""
        try:
            tpm.esys.policy_or(session, TPML_DIGEST(list(self.digests)))
        except TSS2_Exception as error:
            if code(error) != VALUE:
                raise
            raise NotSatisfiedError("the commands before a PolicyOR are none of its branches") from error


class PolicyAuthorize(NamedTuple):
    """The holder of a key must have signed the policy of the commands before it."""

    public: TPM2B_PUBLIC  # The public area of the key that signs.
    reference: bytes  # What the signature also covers.
    signature: TPMT_SIGNATURE | None  # None in a key's own policy, whose signed ones are listed elsewhere.

    def extended(self, digest: bytes | None, hash_name: str) -> bytes | None:
        """See `ExecutableCommand`."""
        name = bytes(self.public.get_name())
        return _hash(hash_name, _hash(hash_name, _zeros(hash_name), _code(POLICY_AUTHORIZE), name), self.reference)

    def run(self, tpm: TPM, session: ESYS_TR, hash_name: str) -> None:
        """See `ExecutableCommand`."""
        approved = bytes(tpm.esys.policy_get_digest(session))
        signed = _hash(hash_name, approved, self.reference)
        # A ticket of the null hierarchy would prove nothing.
        with tpm.temporary(lambda: tpm.esys.load_external(self.public, hierarchy=ESYS_TR.RH_OWNER)) as key:
            try:
                ticket = tpm.esys.verify_signature(key, signed, self.signature)
            except TSS2_Exception as error:
                if code(error) != SIGNATURE:
                    raise
                raise NotSatisfiedError("its signature is not of this policy") from error
        tpm.esys.policy_authorize(session, approved, bytes(self.public.get_name()), ticket, self.reference)


def read_command(command: PolicyCommand) -> ExecutableCommand:
    """Read a command; raise an UnknownCommandError, or a ValueError if its parameters can't be read."""
    if command.code == POLICY_PCR:
        return _read_pcr(command.body)
    if command.code in (POLICY_AUTH_VALUE, POLICY_PASSWORD):
        return PolicyAuthValue()
    if command.code == POLICY_OR:
        digests, rest = _unmarshal(TPML_DIGEST, command.body)
        _check_end(rest)
        return PolicyOR(tuple(map(bytes, digests)))
    if command.code == POLICY_AUTHORIZE:
        return _read_authorize(command.body)
    raise UnknownCommandError(command_name(command.code))


def _read_pcr(body: bytes) -> PolicyPCR:
    """Read what the draft describes, digest and selection, or what openssl_tpm2_engine writes: selection and digest."""
    size = int.from_bytes(body[:2], "big")
    try:
        digest = body[2 : 2 + size]
        pcrs, selection, rest = read_selection(body[2 + size :])
        _check_end(rest)
    except ValueError:
        pcrs, selection, digest = read_selection(body)
    _unmarshal(TPML_PCR_SELECTION, selection)
    return PolicyPCR(pcrs, selection, digest)


def read_selection(data: bytes) -> tuple[tuple[PCR, ...], bytes, bytes]:
    """Return the PCRs that a TPML_PCR_SELECTION at the start of bytes selects, the selection itself and the rest."""
    try:
        (count,) = struct.unpack_from(">I", data)
        offset, pcrs = 4, []
        for _ in range(count):
            bank, size = struct.unpack_from(">HB", data, offset)
            select = data[offset + 3 : offset + 3 + size]
            if len(select) < size:
                raise ValueError("a PCR selection is cut short")
            pcrs += [PCR(bank, i) for i in range(8 * size) if select[i // 8] >> i % 8 & 1]
            offset += 3 + size
    except struct.error as error:
        raise ValueError("a PCR selection is cut short") from error
    return tuple(pcrs), data[:offset], data[offset:]


def _read_authorize(body: bytes) -> PolicyAuthorize:
    public, rest = _unmarshal(TPM2B_PUBLIC, body)
    reference, rest = _unmarshal(TPM2B_DIGEST, rest)
    if rest in (b"", _NO_SIGNATURE):
        return PolicyAuthorize(public, bytes(reference), None)
    signature, rest = _unmarshal(TPMT_SIGNATURE, rest)
    _check_end(rest)
    return PolicyAuthorize(public, bytes(reference), signature)


def _unmarshal(kind: type[_Structure], data: bytes) -> tuple[_Structure, bytes]:
    try:
        structure, length = kind.unmarshal(data)
    except TSS2_Exception as error:
        raise ValueError(f"a {kind.__name__} can't be read: {error}") from error
    return structure, data[length:]


def _check_end(rest: bytes) -> None:
    if rest:
        raise ValueError("a command has too many parameters")


def command_name(number: int) -> str:
    """Return a policy command's name by its command code (TPM 2.0 Library, part 2, 6.5.2), such as `PolicyPCR`."""
    try:
        return str(TPM2_CC.to_string(number)).removeprefix("TPM2_CC.").replace("_", "")
    except ValueError:
        return f"the unknown command {number:#x}"


def _zeros(hash_name: str) -> bytes:
    return bytes(hashlib.new(hash_name).digest_size)


def _code(number: int) -> bytes:
    return struct.pack(">I", number)


def _hash(name: str, *parts: bytes) -> bytes:
    return hashlib.new(name, b"".join(parts)).digest()
