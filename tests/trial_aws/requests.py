"""The CreateSession request: its signature, its clock, how long its session lasts; and the shapes of responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from hwsigner.sigv4 import Request
from trial_aws.asking import Ask, kind, of_leaf, outcome
from trial_aws.authority import LEAF
from trial_aws.plan import needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedProfile, WantedRole

_LONG = WantedRole("long", profile="long", duration=43200), WantedProfile("long", members={"durationSeconds": 43200})
_TYPE = "Content-Type"

Change = Callable[[Request], Request]


def _with_type(request: Request) -> Request:
    return request._replace(headers=(*_without_type(request).headers, (_TYPE, "application/json")))


def _without_type(request: Request) -> Request:
    return request._replace(headers=tuple(pair for pair in request.headers if pair[0].lower() != _TYPE.lower()))


def _with_parameter(value: str) -> Change:
    return lambda request: request._replace(query=(*request.query, ("trial", value)))


def _with_last_parameter(value: str) -> Change:
    return lambda request: request._replace(query=(*request.query[:-1], ("trial", value)))


def _serial_in_hex(scene: AWSScene) -> str:
    leaf = scene.leaf()
    return outcome(scene.session(leaf, AskedSession(serial=f"{leaf.certificate.serial_number:x}")))


def _other_key(scene: AWSScene) -> str:
    return outcome(scene.session(scene.leaf(), AskedSession(signing_key=scene.ca.intermediate.key)))


def _shape(**members: Any) -> Ask:
    """Return what asks where a response has the type of its error, and which members its body has."""

    def ask(scene: AWSScene) -> str:
        answer = scene.session(scene.leaf(), AskedSession(**members))
        return f"{answer.header or answer.status}; {', '.join(answer.members)}"

    return ask


def _expiration(scene: AWSScene) -> str:
    answer = scene.session(scene.leaf())
    return answer.expiration or str(answer)


def _skewed(minutes: float) -> Ask:
    return of_leaf(LEAF, clock=timedelta(minutes=minutes))


def _lasting(duration: int | None, **members: Any) -> Ask:
    """Return what asks for a session of a duration, and answers how long it lasts."""

    def ask(scene: AWSScene) -> str:
        answer = scene.session(scene.leaf(), AskedSession(duration=duration, **members))
        if answer.ok:
            return f"{answer.lifetime} seconds"
        return kind(answer) if answer.status == 400 else outcome(answer)

    return ask


ASKS: Mapping[str, Ask] = {
    "requests.unsigned-content-type": of_leaf(LEAF, change=_without_type, spoil=_with_type),
    "requests.serial-in-hex": _serial_in_hex,
    "requests.other-key": _other_key,
    "requests.equals": of_leaf(LEAF, change=_with_parameter("a=b")),
    "requests.equals-twice": of_leaf(LEAF, change=_with_parameter("a%3Db"), spoil=_with_last_parameter("a=b")),
    "requests.shape-201": _shape(),
    "requests.shape-403": _shape(chain=()),
    "requests.expiration": _expiration,
    "clock.behind": _skewed(-4.5),
    "clock.ahead": _skewed(4.5),
    "clock.too-far-behind": _skewed(-5.5),
    "clock.too-far-ahead": _skewed(5.5),
    "durations.none": _lasting(None),
    "durations.over-profile": _lasting(43200),
    "durations.of-profile": needing(_lasting(None, role="long"), *_LONG),
    "durations.over-role": needing(_lasting(3601, profile="long"), *_LONG),
    "durations.none-over-role": needing(_lasting(None, profile="long"), *_LONG),
}
