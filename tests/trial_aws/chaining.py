"""What asks what a session of a role takes with it to the session of the next role."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hwsigner.trial.questions import NotAskedError
from trial_aws.authority import CertificateShape
from trial_aws.plan import Ask, needing
from trial_aws.probes import LET_IN, TAG_KEY, in_words
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import ACTIONS, WantedRole, trusting

_ASSUME, _, _SET = ACTIONS
_SHAPE = CertificateShape((("CN", "web"), ("OU", "a")))


def _next_role(name: str, actions: tuple[str, ...] = (_ASSUME, _SET), **condition: Mapping[str, Any]) -> WantedRole:
    """Return a role that trusts the first one. IAM takes a role as a principal only if it is there."""
    head = {"Effect": "Allow", "Principal": {"AWS": "<<role:chain-first>>"}, "Action": list(actions)}
    policy = trusting({**head, "Condition": condition} if condition else head)
    return WantedRole(f"chain-{name}", policy, profile="", duration=7200)


_FIRST = WantedRole("chain-first")
_SECOND = _next_role("second")
_NO_SET = _next_role("no-set", (_ASSUME,))
_IDENTIFIED = _next_role("identified", StringEquals={"aws:SourceIdentity": "CN=web"})
_TAGGED = _next_role("tagged", StringEquals={f"{TAG_KEY}x509Subject/OU": "a"})


def _let_in(role: WantedRole, seconds: int, scene: AWSScene) -> str:
    """Assume a role with a session of the first role."""
    session = scene.session(scene.leaf(_SHAPE), AskedSession(_FIRST.name))
    if not session.ok:
        raise NotAskedError(f"the first role was refused: {in_words(session)}")
    members = {"RoleArn": scene.arn("role", role.name), "RoleSessionName": "trial", "DurationSeconds": seconds}
    return scene.follow_up(session, "assume_role", **members).code or LET_IN


def _assumes(role: WantedRole, seconds: int = 900) -> Ask:
    return needing(partial(_let_in, role, seconds), _FIRST, role)


ASKS: dict[str, Ask] = {
    "chaining.two-actions": _assumes(_SECOND),
    "chaining.no-set": _assumes(_NO_SET),
    "chaining.longer": _assumes(_SECOND, 3601),
    "chaining.condition": _assumes(_IDENTIFIED),
    "chaining.tags": _assumes(_TAGGED),
}
