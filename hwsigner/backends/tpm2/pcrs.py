"""The policy of a new key that signs only while PCRs keep their present values."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator

from tpm2_pytss import TPM2_ALG, TPML_PCR_SELECTION

from hwsigner.backends.tpm2.key_file import PolicyCommand
from hwsigner.backends.tpm2.policy_commands import (
    HASHES,
    POLICY_AUTH_VALUE,
    POLICY_PCR,
    NotSatisfiedError,
    read_command,
)
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import SigningKeyError, UnsupportedKeyError, UsageError

_PCRS = re.compile(r"(sha1|sha256|sha384|sha512):([0-9]{1,2}(?:,[0-9]{1,2})*)")
_NUMBERS = range(24)  # PC Client profile, 4.6.2: a selection has three bytes.
_RESETTABLE = (16, 23)  # PC Client profile, 4.6.2: any program may reset them.
_NAME_HASH = "sha256"


class PCRSelection:
    """PCRs of one bank, written `sha256:7,14`."""

    def __init__(self, text: str) -> None:
        match = _PCRS.fullmatch(text)
        self.numbers = sorted(set(map(int, match[2].split(",")))) if match else []
        if match is None or self.numbers[-1] not in _NUMBERS:
            hint = "Write one of sha1, sha256, sha384 and sha512, and numbers from 0 to 23: sha256:7,14"
            raise UsageError(f"{text!r} names no PCRs", hint)
        self.bank = match[1]

    def __str__(self) -> str:
        return f"{self.bank}:{','.join(map(str, self.numbers))}"

    @property
    def notes(self) -> Iterator[str]:
        """What the owner of a key with such a policy should know, a sentence each."""
        yield (
            f"An update of firmware, shim or anything else that changes PCR {self} ends this key: "
            "make a new one then, and get it a certificate"
        )
        for number in _RESETTABLE:
            if number in self.numbers:
                yield f"PCR {number} protects little: any program that may use the TPM can reset it"

    def policy(self, tpm: TPM, *, with_auth: bool) -> tuple[PolicyCommand, ...]:
        """Return the commands of the policy, for the present values.

        It raises an UnsupportedKeyError if the TPM has no such bank, and a SigningKeyError if a value changes at this
        moment.
        """
        digest = hashlib.new(_NAME_HASH, b"".join(self.values(tpm))).digest()
        command = PolicyCommand(POLICY_PCR, struct.pack(">H", len(digest)) + digest + self._marshalled(self.numbers))
        with tpm.policy_session(TPM2_ALG.SHA256) as session:
            try:
                read_command(command).run(tpm, session, _NAME_HASH)
            except NotSatisfiedError as error:
                raise SigningKeyError(f"no key was made: {error}", "Retry once the machine has started") from error
        return (command, PolicyCommand(POLICY_AUTH_VALUE)) if with_auth else (command,)

    def structure(self) -> TPML_PCR_SELECTION:
        """Return the same as the TPM takes it."""
        return TPML_PCR_SELECTION.unmarshal(self._marshalled(self.numbers))[0]

    def values(self, tpm: TPM) -> Iterator[bytes]:
        """Yield the values in ascending order. The TPM gives eight at once at most."""
        left = self.numbers
        while left:
            _, _, digests = tpm.esys.pcr_read(TPML_PCR_SELECTION.unmarshal(self._marshalled(left))[0])
            values = [bytes(digest) for digest in digests]
            if not values:
                hint = (
                    "Choose a bank that tpm2_getcap pcrs shows. If a registrar asks for it, turn it on in the firmware"
                )
                raise UnsupportedKeyError(f"this TPM has no PCR {self}", hint)
            yield from values
            left = left[len(values) :]

    def _marshalled(self, numbers: list[int]) -> bytes:
        """Return a TPML_PCR_SELECTION (TPM 2.0 Library, part 2, 10.9.7)."""
        bank = next(number for number, name in HASHES.items() if name == self.bank)
        return struct.pack(">IHB", 1, bank, 3) + sum(1 << number for number in numbers).to_bytes(3, "little")


def policy_digest(commands: tuple[PolicyCommand, ...]) -> bytes:
    """Return the digest that a key has whose policy these commands are, or empty bytes if there are none."""
    digest: bytes | None = bytes(hashlib.new(_NAME_HASH).digest_size)
    for command in commands:
        digest = read_command(command).extended(digest, _NAME_HASH)
    return digest or b"" if commands else b""
