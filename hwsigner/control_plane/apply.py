"""Carrying out a plan, one call after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hwsigner.aws.apis import ServiceClients
from hwsigner.control_plane.plan import Step, plan
from hwsigner.control_plane.resources import Existing, Profile, Role, TrustAnchor, read
from hwsigner.control_plane.wanted import Wanted
from hwsigner.errors import HwsignerError

_AGAIN = "Run the same command again: it shows what is left and completes it"


def apply(clients: ServiceClients, existing: Existing, wanted: Wanted, done: Callable[[Step], None]) -> Existing:
    """Carry out the plan for a set-up, and return what there is then.

    After each call, what is left is planned anew with the ARNs that the call returned. So a set-up that was cut off
    anywhere is completed by the next one.

    Args:
        clients: the clients of the account and region that `existing` was read from.
        existing: what there was when the user agreed.
        wanted: the set-up.
        done: is called after each step.

    Raises:
        HwsignerError: as `ServiceClient.call`, with what was already done.
    """
    made: list[str] = []
    for operation in [step.operation for step in plan(existing, wanted)]:
        step = next((each for each in plan(existing, wanted) if each.operation == operation), None)
        if step is None:  # With the ARNs that are known now, it is not needed.
            continue
        try:
            response: Mapping[str, Any] = getattr(clients, step.service).call(step.operation, **step.parameters)
        except HwsignerError as error:
            raise _with_what_was_made(error, made) from error
        existing = _after(existing, step, response)
        made.append(f"{step.resource}: {step.short}")
        done(step)
    if plan(existing, wanted):
        raise HwsignerError("more is to be done than the plan said", _AGAIN)
    return existing


def check_unchanged(clients: ServiceClients, existing: Existing, wanted: Wanted) -> None:
    """Check that everything is as it was when the plan was shown.

    Raises:
        HwsignerError: something changed, or as `read`.
    """
    if read(clients, wanted) != existing:
        raise HwsignerError("the trust anchor, role or profile changed meanwhile, so nothing was done", _AGAIN)


def _after(existing: Existing, step: Step, response: Mapping[str, Any]) -> Existing:
    """Return what there is after a step, from its response, or from its parameters if that says nothing."""
    if step.resource == "trust anchor":
        return replace(existing, anchor=TrustAnchor.of(response["trustAnchor"]))
    if step.resource == "profile":
        return replace(existing, profile=Profile.of(response["profile"]))
    parameters, role = step.parameters, existing.role
    if step.operation == "create_role" or role is None:
        document = json.loads(parameters["AssumeRolePolicyDocument"])
        return replace(existing, role=Role.of({**response["Role"], "AssumeRolePolicyDocument": document}))
    if step.operation == "update_assume_role_policy":
        role = replace(role, trust_policy=json.loads(parameters["PolicyDocument"]))
    elif step.operation == "update_role":
        role = replace(role, max_session_duration=parameters["MaxSessionDuration"])
    else:
        role = replace(role, policies=(*role.policies, parameters["PolicyArn"]))
    return replace(existing, role=role)


def _with_what_was_made(error: HwsignerError, made: Sequence[str]) -> HwsignerError:
    if made:
        error.hint = f"{error.hint}. Already done: {'; '.join(made)}. {_AGAIN}"
    return error
