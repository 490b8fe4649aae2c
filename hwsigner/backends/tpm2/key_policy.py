"""A key's policy: what must hold for a use of the key, and sessions that show that it does.

A key file lists the commands that lead to the digest in the key. If its authPolicy holds lists too, one of them goes
first, usually a signed one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPMA_SESSION, TPMT_PUBLIC, TSS2_Exception

from hwsigner.backends.tpm2.errors import POLICY_FAIL, code
from hwsigner.backends.tpm2.key_file import AuthPolicy, PolicyCommand, TSS2Key
from hwsigner.backends.tpm2.policy_commands import (
    HASHES,
    ExecutableCommand,
    NotSatisfiedError,
    PolicyAuthorize,
    PolicyAuthValue,
    PolicyOR,
    UnknownCommandError,
    read_command,
)
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.errors import SigningKeyError, UnsupportedKeyError

_KNOWN = "Use PolicyPCR, PolicyAuthValue, PolicyPassword, PolicyOR or signed policies"
_MAX_LISTED = 32
_NOT_SATISFIED_HINT = "Restore that state of the machine, or make a key or a signed policy for the present one"


class PolicyBranch(NamedTuple):
    """One way to satisfy a policy."""

    name: str  # What the file calls it, or empty.
    commands: tuple[ExecutableCommand, ...]

    @property
    def takes_auth(self) -> bool:
        """Whether it takes the key's auth value."""
        return any(isinstance(command, PolicyAuthValue) for command in self.commands)

    def leads_to(self, digest: bytes, hash_name: str) -> bool:
        """Return whether its commands make this digest, as far as that is known before they are executed."""
        current: bytes | None = bytes(len(digest))
        for command in self.commands:
            try:
                current = command.extended(current, hash_name)
            except ValueError:
                return False
        return current is None or current == digest


class KeyPolicy(NamedTuple):
    """What must hold for a use of a key."""

    branches: tuple[PolicyBranch, ...]  # Those without the auth value first: it is sent only if nothing else helps.
    hash: int  # The number of its digest's hash (TPM 2.0 Library, part 2, 6.3).
    key: str

    @property
    def takes_auth(self) -> bool:
        """Whether some branch takes the key's auth value."""
        return any(branch.takes_auth for branch in self.branches)

    @property
    def needs_auth(self) -> bool:
        """Whether every branch takes it."""
        return all(branch.takes_auth for branch in self.branches)

    @contextmanager
    def session(self, tpm: TPM, handle: ESYS_TR, auth: bytes) -> Iterator[ESYS_TR]:
        """Open a session in which the policy is satisfied, and flush it after the `with` statement.

        It raises a SigningKeyError if no branch is satisfied now, with what is wrong with each. `handle` is the loaded
        key, `auth` its auth value for the branches that take it.
        """
        reasons = []
        for branch in self.branches:
            if branch.takes_auth and not (auth or self.needs_auth):
                reasons.append((branch.name, "it takes the key's auth value, and none is given"))
                continue
            with tpm.policy_session(self.hash) as session:
                reason = self._execute(tpm, session, branch)
                if reason:
                    reasons.append((branch.name, reason))
                    continue
                tpm.esys.tr_set_auth(handle, auth if branch.takes_auth else b"")
                try:
                    yield session
                except TSS2_Exception as error:
                    if code(error) != POLICY_FAIL:
                        raise
                    # A policy without a digest of its own is compared with the key's at the use itself.
                    raise self._refusal("the TPM does not say why") from error
                return
        raise self._refusal("; ".join(f"{name}: {reason}" if name else reason for name, reason in reasons))

    def _execute(self, tpm: TPM, session: ESYS_TR, branch: PolicyBranch) -> str:
        """Execute the commands of a branch; return why it is not satisfied, or an empty string."""
        # Nothing that it authorizes is a secret, and encrypting would take the auth value, known or not.
        tpm.esys.trsess_set_attributes(session, TPMA_SESSION.CONTINUESESSION)
        try:
            for command in branch.commands:
                command.run(tpm, session, HASHES[self.hash])
        except NotSatisfiedError as error:
            return str(error)
        return ""

    def _refusal(self, reason: str) -> SigningKeyError:
        return SigningKeyError(f"the policy of key {self.key} is not satisfied: {reason}", _NOT_SATISFIED_HINT)


def read_policy(public: TPMT_PUBLIC, file: TSS2Key | None, name: str) -> KeyPolicy:
    """Return the policy of a key that its auth value does not unlock.

    Its file lists the policy's commands; for a handle (None), nothing does. A policy that is not listed, has an unknown
    command, or leads to another digest than the key's is an UnsupportedKeyError.
    """
    digest, hash_name = bytes(public.authPolicy), HASHES.get(public.nameAlg)
    if not digest or hash_name is None:
        fault = f"has a policy with the hash {TPM2_ALG(public.nameAlg)}" if digest else "allows no use"
        raise UnsupportedKeyError(f"key {name} {fault}", "Make a key with userWithAuth, or with a policy of SHA-256")
    listed = _listed_branches(file, name) if file and file.policy else [PolicyBranch("", (PolicyAuthValue(),))]
    selections = [selection for branch in listed for selection in _selections(branch)]
    possible = [branch for branch in (*listed, *selections) if branch.leads_to(digest, hash_name)]
    if not possible:
        raise _not_listed(file, name)
    ordered = sorted(possible, key=lambda branch: branch.takes_auth)
    return KeyPolicy(tuple(ordered), int(public.nameAlg), name)


def _not_listed(file: TSS2Key | None, name: str) -> UnsupportedKeyError:
    if file is None:
        return UnsupportedKeyError(
            f"key {name} has a policy, and a handle does not say which",
            "Name its TSS2 key file, which lists the policy",
        )
    if not file.policy:
        return UnsupportedKeyError(f"key {name} has a policy that its file does not list", "Add the policy to the file")
    return UnsupportedKeyError(
        f"the policy in file {name} is not its key's", "Write the file again, with the policy that the key has"
    )


def _listed_branches(file: TSS2Key, name: str) -> list[PolicyBranch]:
    """Return the branches that a file lists. One with an unknown command is left out if there are others."""
    branches, unknown = [], None
    for auth_policy in file.auth_policies or (AuthPolicy(()),):
        try:
            branches.append(_read_branch(file.policy, auth_policy, name))
        except UnknownCommandError as error:
            unknown = unknown or error
    if unknown is not None and not branches:
        raise UnsupportedKeyError(f"key {name} has a policy with {unknown}", _KNOWN) from unknown
    return branches


def _read_branch(own: Sequence[PolicyCommand], auth_policy: AuthPolicy, name: str) -> PolicyBranch:
    try:
        before = [read_command(command) for command in auth_policy.commands]
        after = [read_command(command) for command in own]
    except ValueError as error:
        raise UnsupportedKeyError(f"the policy of key {name} can't be read: {error}", "Write the file again") from error
    if isinstance(after[0], PolicyAuthorize) and after[0].signature is None:
        # It only says whose signed policies may stand in its place.
        if not before:
            raise UnsupportedKeyError(
                f"key {name} needs a signed policy, and its file has none", "Add one that the holder of its key signed"
            )
        after = after[1:]
    return PolicyBranch(auth_policy.name, (*before, *after))


def _selections(branch: PolicyBranch) -> list[PolicyBranch]:
    """Return what a list with several branches, one after the other before its first PolicyOR, may mean."""
    commands = branch.commands
    place = next((i for i, command in enumerate(commands[:_MAX_LISTED]) if isinstance(command, PolicyOR)), 0)
    bounds = itertools.combinations(range(place + 1), 2)
    return [
        PolicyBranch(branch.name, (*commands[start:end], *commands[place:]))
        for start, end in bounds
        if end - start < place
    ]
