"""How long AWS takes, how many requests it takes, and its other hosts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hwsigner._aws.create_session import find_service
from hwsigner.errors import HwsignerError
from hwsigner.trial.questions import NotAskedError
from trial_aws.asking import Ask, kind, outcome
from trial_aws.calls import TrialPace
from trial_aws.plan import needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedRole, statement, trusting

_MOST_SECONDS = 19
_AT_ONCE = 30
_SHUT = trusting(statement(Effect="Deny"))
_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
_SOON = f"within {_MOST_SECONDS} seconds"
SHUT_ROLE, OPENED_ROLE = WantedRole("late-shut"), WantedRole("late-opened", _SHUT)
ONLY_OF_AWS = "it is asked of AWS only"


def _until(done: Callable[[], bool]) -> str:
    """Return how long it takes until something is so."""
    begin = time.monotonic()
    for _ in range(2 * _MOST_SECONDS):
        if done():
            return _SOON if time.monotonic() - begin <= _MOST_SECONDS else f"not {_SOON}"
    return f"not {_SOON}"


def _new_role(scene: AWSScene) -> str:
    made = scene.new_role("late", trusting())
    if made.code:
        return str(made)
    roles, name = [scene.arn("role", "late")], scene.named("late")
    leaf, asked = scene.leaf(), AskedSession(role="late", profile="late")

    def is_there() -> bool:
        if ("profile", "late") not in scene.arns:
            call = scene.calls.call("rolesanywhere", "create_profile", name=name, roleArns=roles, enabled=True)
            if call.code:
                return False
            scene.arns["profile", "late"] = call.response["profile"]["profileArn"]
        return scene.session(leaf, asked).ok

    return _until(is_there)


def _changed(role: WantedRole, policy: dict[str, Any], *, opened: bool) -> Ask:
    """Return what replaces a role's trust policy, and waits until it is in force."""

    def ask(scene: AWSScene) -> str:
        names = {"RoleName": scene.named(role.name), "PolicyDocument": scene.filled(policy)}
        answer = scene.calls.call("iam", "update_assume_role_policy", **names)
        leaf, asked = scene.leaf(), AskedSession(role=role.name)
        return str(answer) if answer.code else _until(lambda: scene.session(leaf, asked).ok is opened)

    return ask


def _many_at_once(scene: AWSScene) -> str:
    """Send many requests at once, and return the refusal of one that is too many."""
    if not scene.rates:
        raise NotAskedError("it is asked only with --rates")
    if not scene.is_aws:
        raise NotAskedError(ONLY_OF_AWS)
    leaf, hasty = scene.leaf(), scene.elsewhere(pace=TrialPace(0))
    arns = scene.arn("profile", "main"), scene.arn("role", "open"), scene.arn("anchor", "main")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda _: hasty.send_once(leaf, AskedSession(), arns), range(_AT_ONCE)))
    return next((kind(answer) for answer in answers if not answer.ok), "none is refused")


def _on_host(*, fips: bool, dual_stack: bool) -> Ask:
    """Return what asks for a session at another host of the region."""

    def ask(scene: AWSScene) -> str:
        if not scene.is_aws:
            raise NotAskedError(ONLY_OF_AWS)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_VARIABLES)}
        try:
            service = find_service(scene.region, fips=fips, dual_stack=dual_stack, environ=environ)
        except HwsignerError as error:
            raise NotAskedError(error.message) from error
        return outcome(scene.elsewhere(service).session(scene.leaf()))

    return ask


ASKS: Mapping[str, Ask] = {
    "delays.new-role": _new_role,
    "delays.shut": needing(_changed(SHUT_ROLE, _SHUT, opened=False), SHUT_ROLE),
    "delays.opened": needing(_changed(OPENED_ROLE, trusting(), opened=True), OPENED_ROLE),
    "hosts.fips": _on_host(fips=True, dual_stack=False),
    "hosts.dual-stack": _on_host(fips=False, dual_stack=True),
    "hosts.fips-dual-stack": _on_host(fips=True, dual_stack=True),
    "rates.sessions": _many_at_once,
}
