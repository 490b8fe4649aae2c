"""A key's policy: what must hold for a use of the key, and sessions in which that is shown.

A key file lists the commands that lead to the digest in the key. Where its authPolicy holds lists as well, one of them
goes before, most often a signed one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPMA_OBJECT, TPMA_SESSION, TPMT_PUBLIC, TSS2_Exception

from hwsigner.backends.tpm2.context import TPM
from hwsigner.backends.tpm2.errors import POLICY_FAIL, code
from hwsigner.backends.tpm2.key_file import AuthPolicy, PolicyCommand, TSS2Key
from hwsigner.backends.tpm2.pcrs import HASHES
from hwsigner.backends.tpm2.policy_commands import (
    Command,
    NotSatisfiedError,
    PolicyAuthorize,
    PolicyAuthValue,
    PolicyOR,
    UnknownCommandError,
    read_command,
)
from hwsigner.errors import SigningKeyError, UnsupportedKeyError

_KNOWN = "PolicyPCR, PolicyAuthValue, PolicyPassword, PolicyOR and signed policies are known here"
_MAX_LISTED = 32
_AGAIN = "Bring the machine back to that state, or make a key, or a signed policy, for the present one"


@dataclass(frozen=True)
class Way:
    """One way to satisfy a policy.

    Attributes:
        name: what the file calls it, or an empty string.
        commands: its commands, in their order.
    """

    name: str
    commands: tuple[Command, ...]

    @property
    def takes_auth(self) -> bool:
        """Whether it takes the key's auth value."""
        return any(isinstance(command, PolicyAuthValue) for command in self.commands)

    def told(self, reason: str) -> str:
        """Return why it is not satisfied, with its name."""
        return f"{self.name}: {reason}" if self.name else reason

    def leads_to(self, digest: bytes, hash_name: str) -> bool:
        """Return whether its commands make this digest, as far as that is known before they are executed."""
        current: bytes | None = bytes(len(digest))
        for command in self.commands:
            try:
                current = command.extended(current, hash_name)
            except ValueError:
                return False
        return current is None or current == digest


@dataclass(frozen=True)
class Policy:
    """What must hold for a use of a key.

    Attributes:
        ways: the ways to satisfy it, those without the auth value first: it is sent when nothing else helps.
        hash_name: the hash of its digest.
        hash_number: the same, in the TPM's numbers.
        key: the key's name for messages.
    """

    ways: tuple[Way, ...]
    hash_name: str
    hash_number: int
    key: str

    @property
    def takes_auth(self) -> bool:
        """Whether some way takes the key's auth value."""
        return any(way.takes_auth for way in self.ways)

    @property
    def needs_auth(self) -> bool:
        """Whether every way takes it."""
        return all(way.takes_auth for way in self.ways)

    @contextmanager
    def session(self, tpm: TPM, handle: ESYS_TR, auth: bytes) -> Iterator[ESYS_TR]:
        """Give a session in which the policy is satisfied, and flush it.

        Args:
            tpm: the TPM.
            handle: the loaded key.
            auth: its auth value, for the ways that take it.

        Raises:
            SigningKeyError: no way is satisfied now; the message says what is wrong with each.
        """
        usable = [way for way in self.ways if auth or self.needs_auth or not way.takes_auth]
        reasons = []
        for way in usable:
            with tpm.policy_session(self.hash_number) as session:
                reason = self._satisfy(tpm, session, way)
                if reason:
                    reasons.append(way.told(reason))
                    continue
                tpm.esys.tr_set_auth(handle, auth if way.takes_auth else b"")
                with self._final_refusal_told():
                    yield session
                return
        unused = self.ways[len(usable) :]
        reasons += [way.told("it takes the key's auth value, and none is given") for way in unused]
        raise self._refusal(reasons)

    def _satisfy(self, tpm: TPM, session: ESYS_TR, way: Way) -> str:
        """Execute the commands of a way; return why it is not satisfied, or an empty string."""
        # Nothing that it authorizes is a secret, and to encrypt would take the auth value, known here or not.
        tpm.esys.trsess_set_attributes(session, TPMA_SESSION.CONTINUESESSION)
        try:
            for command in way.commands:
                command.run(tpm, session, self.hash_name)
        except NotSatisfiedError as error:
            return str(error)
        return ""

    @contextmanager
    def _final_refusal_told(self) -> Iterator[None]:
        """Tell of a policy that the TPM compares with the key's at the very use alone."""
        try:
            yield
        except TSS2_Exception as error:
            if code(error) != POLICY_FAIL:
                raise
            raise self._refusal(["the TPM says no more than that"]) from error

    def _refusal(self, reasons: Sequence[str]) -> SigningKeyError:
        return SigningKeyError(f"the policy of key {self.key} is not satisfied: {'; '.join(reasons)}", _AGAIN)


def read_policy(public: TPMT_PUBLIC, file: TSS2Key | None, name: str) -> Policy | None:
    """Return the policy that a use of a key takes, or None where its auth value unlocks it.

    Args:
        public: the key's public area.
        file: its file, which lists the policy's commands; None for a handle, where nothing does.
        name: what to call the key in messages.

    Raises:
        UnsupportedKeyError: the policy is not listed, can't be read, has a command that is not known here, or the list
            leads elsewhere than to the key's digest.
    """
    if public.objectAttributes & TPMA_OBJECT.USERWITHAUTH:
        return None
    digest, hash_name = bytes(public.authPolicy), HASHES.get(public.nameAlg)
    if not digest or hash_name is None:
        fault = f"has a policy with the hash {TPM2_ALG(public.nameAlg)}" if digest else "allows no use"
        raise UnsupportedKeyError(f"key {name} {fault}", "Make a key with userWithAuth, or with a policy of SHA-256")
    ways = _listed_ways(file, name) if file and file.policy else [Way("", (PolicyAuthValue(),))]
    branches = [branch for way in ways for branch in _branches(way)]
    possible = [way for way in (*ways, *branches) if way.leads_to(digest, hash_name)]
    if not possible:
        raise _unlisted(file, name)
    ordered = sorted(possible, key=lambda way: way.takes_auth)
    return Policy(tuple(ordered), hash_name, int(public.nameAlg), name)


def _unlisted(file: TSS2Key | None, name: str) -> UnsupportedKeyError:
    if file is None:
        return UnsupportedKeyError(
            f"key {name} has a policy, and a handle does not say which",
            "Name its TSS2 key file, which lists the policy",
        )
    if not file.policy:
        return UnsupportedKeyError(f"key {name} has a policy that its file does not list", "Add the policy to the file")
    return UnsupportedKeyError(
        f"the policy in file {name} is not that of its key", "Write the file anew, with the policy that the key has"
    )


def _listed_ways(file: TSS2Key, name: str) -> list[Way]:
    """Return the ways that a file lists. One with an unknown command is left out if there are others."""
    own, first = file.policy, file.auth_policies or (AuthPolicy(()),)
    ways, unknown = [], None
    for auth_policy in first:
        try:
            ways.append(_way(own, auth_policy, name))
        except UnknownCommandError as error:
            unknown = unknown or error
    if unknown is not None and not ways:
        raise UnsupportedKeyError(f"key {name} has a policy with {unknown}", _KNOWN) from unknown
    return ways


def _way(own: Sequence[PolicyCommand], auth_policy: AuthPolicy, name: str) -> Way:
    try:
        before = [read_command(command) for command in auth_policy.commands]
        after = [read_command(command) for command in own]
    except ValueError as error:
        raise UnsupportedKeyError(f"the policy of key {name} can't be read: {error}", "The file is damaged") from error
    if _is_placeholder(after[0]):
        if not before:
            raise UnsupportedKeyError(
                f"key {name} wants a signed policy, and its file holds none",
                "Add one that the holder of its key signed",
            )
        after = after[1:]
    return Way(auth_policy.name, (*before, *after))


def _branches(way: Way) -> list[Way]:
    """Return what may be meant by a list with several branches, one after the other, before its first PolicyOR."""
    place = next((i for i, command in enumerate(way.commands[:_MAX_LISTED]) if isinstance(command, PolicyOR)), 0)
    bounds = itertools.combinations(range(place + 1), 2)
    return [
        Way(way.name, (*way.commands[start:end], *way.commands[place:])) for start, end in bounds if end - start < place
    ]


def _is_placeholder(command: Command) -> bool:
    """Return whether a command says whose signed policies there are, and is none itself."""
    return isinstance(command, PolicyAuthorize) and command.signature is None
