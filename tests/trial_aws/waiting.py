"""Questions about how long AWS takes, how many requests it takes, and its other hosts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hwsigner._aws.create_session import find_service
from hwsigner.errors import HwsignerError
from hwsigner.trial.questions import NotAskedError, choice, document
from trial_aws.asking import SESSION, Ask, kind, outcome
from trial_aws.calls import TrialPace
from trial_aws.plan import AWSRow
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.sources import QUOTAS
from trial_aws.wanted import OPEN, WantedRole, statement, trusting

_MOST_SECONDS = 19
_AT_ONCE = 30
_SHUT = trusting(statement(Effect="Deny"))
_SETUP = "docs/reference/aws-setup.md"
_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
_SOON = f"within {_MOST_SECONDS} seconds"
_PATIENCE = choice(f"hwsigner aws setup waits up to {_MOST_SECONDS} seconds for a new role")
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


_HOSTS = document("AWS General Reference: IAM Roles Anywhere endpoints and quotas: service endpoints")
_HOST_LINES = ("hwsigner/_aws/region.py: sessions_endpoint", "docs/reference/config.md")
_DELAYS = (
    AWSRow("delays.new-role", "How long after CreateRole does a session of the role succeed?").expects(
        _SOON, _PATIENCE, _new_role, _SETUP, "docs/how-to/emulator.md#iam"
    ),
    AWSRow(
        "delays.shut",
        "How long after UpdateAssumeRolePolicy is a session refused that the new policy denies?",
        needs=(OPEN, SHUT_ROLE),
    ).expects(_SOON, _PATIENCE, _changed(SHUT_ROLE, _SHUT, opened=False), _SETUP),
    AWSRow(
        "delays.opened",
        "How long after UpdateAssumeRolePolicy does a session succeed that the new policy allows?",
        needs=(OPEN, OPENED_ROLE),
    ).expects(_SOON, _PATIENCE, _changed(OPENED_ROLE, trusting(), opened=True), _SETUP),
)
_HOSTS_AND_RATES = (
    AWSRow("hosts.fips", "Does the FIPS host of the region give out sessions?").expects(
        SESSION, _HOSTS, _on_host(fips=True, dual_stack=False), *_HOST_LINES
    ),
    AWSRow("hosts.dual-stack", "Does the dual-stack host of the region give out sessions?").expects(
        SESSION, _HOSTS, _on_host(fips=False, dual_stack=True), *_HOST_LINES
    ),
    AWSRow("hosts.fips-dual-stack", "Does the FIPS host of the region for IPv4 and IPv6 give out sessions?").expects(
        SESSION,
        choice("the endpoint rules of botocore have this host too"),
        _on_host(fips=True, dual_stack=True),
        *_HOST_LINES,
    ),
    AWSRow("rates.sessions", f"How is one of {_AT_ONCE} CreateSession requests at once refused?").expects(
        "429 ThrottlingException",
        QUOTAS,
        _many_at_once,
        "docs/reference/errors.md#retries",
        "docs/how-it-works/fleet.md",
    ),
)

QUESTIONS = (*_DELAYS, *_HOSTS_AND_RATES)
