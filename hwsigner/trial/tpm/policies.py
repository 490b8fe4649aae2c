"""Questions on policies: of PCRs, of the auth value, and of several branches. No PCR is changed."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping
from functools import partial

from tpm2_pytss import TPM2_ALG, TPMA_OBJECT

from hwsigner.backends.tpm2.key_file import PolicyCommand
from hwsigner.backends.tpm2.pcrs import PCRSelection, policy_digest
from hwsigner.backends.tpm2.policy_commands import (
    POLICY_AUTH_VALUE,
    POLICY_OR,
    NotSatisfiedError,
    PolicyPCR,
    read_command,
)
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import BY_POLICY, SIGNING, new_key, signs, template
from hwsigner.trial.tpm.questions import Ask

_PCRS = "0,7"
_AUTH = b"right of the trial"
_Commands = tuple[PolicyCommand, ...]


def _selection(chip: TrialChip) -> PCRSelection:
    return PCRSelection(f"{chip.capabilities.bank}:{_PCRS}")


def _pcrs(chip: TrialChip, tpm: TPM) -> _Commands:
    return _selection(chip).policy(tpm, with_auth=False)


def _pcrs_and_auth(chip: TrialChip, tpm: TPM) -> _Commands:
    return _selection(chip).policy(tpm, with_auth=True)


def _either(chip: TrialChip, tpm: TPM) -> _Commands:
    pcrs = _pcrs(chip, tpm)
    digests = policy_digest(pcrs), hashlib.sha256(b"another branch").digest()
    body = struct.pack(">I", len(digests)) + b"".join(struct.pack(">H", len(one)) + one for one in digests)
    return (*pcrs, PolicyCommand(POLICY_OR, body))


def _auth_value(*_: object) -> _Commands:
    return (PolicyCommand(POLICY_AUTH_VALUE),)


def _key(
    chip: TrialChip,
    commands: Callable[[TrialChip, TPM], _Commands],
    *,
    attributes: TPMA_OBJECT = BY_POLICY,
    auth: bytes = b"",
) -> str:
    """Sign with a key that has a policy, in a session that satisfies it."""

    def work(tpm: TPM) -> str:
        policy = commands(chip, tpm)
        public = template("ecc256", attributes, policy_digest(policy))
        with new_key(tpm, public, auth) as made, tpm.policy_session(TPM2_ALG.SHA256) as session:
            for command in policy:
                read_command(command).run(tpm, session, "sha256")
            tpm.esys.tr_set_auth(made.handle, auth)
            return signs(tpm, made, session=session)

    return chip.use(work)


def _by_auth(chip: TrialChip, *, attributes: TPMA_OBJECT) -> str:
    """Sign with a key of PolicyPCR by its auth value alone."""

    def work(tpm: TPM) -> str:
        with new_key(tpm, template("ecc256", attributes, policy_digest(_pcrs(chip, tpm)))) as made:
            return signs(tpm, made)

    return chip.use(work)


def _digest(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        policy = (*_either(chip, tpm), *_auth_value())
        with tpm.policy_session(TPM2_ALG.SHA256) as session:
            for command in policy:
                read_command(command).run(tpm, session, "sha256")
            is_same = bytes(tpm.esys.policy_get_digest(session)) == policy_digest(policy)
        return "the computed one" if is_same else "another one"

    return chip.use(work)


def _other_pcrs(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        selection = _selection(chip).structure().marshal()
        wrong = PolicyPCR((), bytes(selection), hashlib.sha256(b"another state").digest())
        with tpm.policy_session(TPM2_ALG.SHA256) as session:
            try:
                wrong.run(tpm, session, "sha256")
            except NotSatisfiedError:
                return "not satisfied"
        return "satisfied"

    return chip.use(work)


def _unsatisfied(chip: TrialChip) -> str:
    """Use a key in a session whose policy is not the key's."""

    def work(tpm: TPM) -> str:
        public = template("ecc256", BY_POLICY, policy_digest(_pcrs(chip, tpm)))
        with new_key(tpm, public) as made, tpm.policy_session(TPM2_ALG.SHA256) as session:
            return signs(tpm, made, session=session)

    return chip.use(work)


def _other_branches(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        command = read_command(_either(chip, tpm)[-1])
        with tpm.policy_session(TPM2_ALG.SHA256) as session:
            try:
                command.run(tpm, session, "sha256")
            except NotSatisfiedError:
                return "not satisfied"
        return "satisfied"

    return chip.use(work)


ASKS: Mapping[str, Ask] = {
    "policies.pcrs": partial(_key, commands=_pcrs),
    "policies.pcrs-and-auth": partial(_key, commands=_pcrs_and_auth, auth=_AUTH),
    "policies.or": partial(_key, commands=_either),
    "policies.auth-value": partial(_key, commands=_auth_value, auth=_AUTH),
    "policies.digest": _digest,
    "policies.other-pcrs": _other_pcrs,
    "policies.other-branches": _other_branches,
    "policies.unsatisfied": _unsatisfied,
    "policies.without-session": partial(_by_auth, attributes=BY_POLICY),
    "policies.user-with-auth": partial(_by_auth, attributes=SIGNING),
}
