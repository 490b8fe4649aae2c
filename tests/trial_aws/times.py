"""Questions about the clock of a request, and how long its session lasts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hwsigner.trial.questions import Source, choice
from trial_aws.asking import BAD_SIGNATURE, INVALID, SESSION, Ask, kind, of_leaf, outcome
from trial_aws.authority import LEAF
from trial_aws.plan import AWSQuestion, needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.sources import FIVE_MINUTES, QUOTED, SESSION_API
from trial_aws.wanted import OPEN, Wanted, WantedProfile, WantedRole

_DURATION = "hwsigner/emulator/sessions.py: _duration"
_CLOCK = "hwsigner/emulator/signature.py: check_time"
_CHECKS = "docs/how-to/emulator.md#what-it-checks"
_ERRORS = "docs/reference/errors.md#access-denied"
LONG_ROLE = WantedRole("long", profile="long", duration=43200)
LONG_PROFILE = WantedProfile("long", members={"durationSeconds": 43200})
_FORM = choice("what is not as documented is invalid; AWS does not say what is tolerated")
_LONG: tuple[Wanted, ...] = (LONG_ROLE, LONG_PROFILE)


def _skewed(name: str, words: str, expected: str, source: Source, **off: float) -> AWSQuestion:
    text = f"What does CreateSession say to a request that is dated {words}?"
    ask = of_leaf(LEAF, clock=timedelta(**off))
    return AWSQuestion(f"clock.{name}", text, expected, source, (_CLOCK, _ERRORS, _CHECKS), ask)


_CLOCKS = (
    _skewed("behind", "4:30 minutes ago", SESSION, FIVE_MINUTES, minutes=-4.5),
    _skewed("ahead", "in 4:30 minutes", SESSION, FIVE_MINUTES, minutes=4.5),
    _skewed("too-far-behind", "5:30 minutes ago", BAD_SIGNATURE, FIVE_MINUTES, minutes=-5.5),
    _skewed("too-far-ahead", "in 5:30 minutes", BAD_SIGNATURE, FIVE_MINUTES, minutes=5.5),
    _skewed("half-an-hour", "half an hour ago", BAD_SIGNATURE, QUOTED, minutes=-30),
)


def _lasting(duration: int | None, body: bytes | None = None, **members: Any) -> Ask:
    """Return what asks for a session of a duration, and answers how long it lasts."""

    def ask(scene: AWSScene) -> str:
        answer = scene.session(scene.leaf(), AskedSession(duration=duration, body=body, **members))
        if answer.ok:
            return f"{answer.lifetime} seconds"
        return kind(answer) if answer.status == 400 else outcome(answer)

    return ask


_OVER_THE_ROLE = (
    "403 AccessDeniedException: Unable to assume role for (arn) "
    "The requested DurationSeconds exceeds the MaxSessionDuration set for this role"
)


def _lasts(name: str, words: str, expected: str, source: Source, ask: Ask, *needs: Wanted) -> AWSQuestion:
    text = f"How long does a session last if {words}?"
    return AWSQuestion(f"durations.{name}", text, expected, source, (_DURATION, _CHECKS), needing(ask, OPEN, *needs))


_DURATIONS = (
    _lasts("899", "durationSeconds is 899", INVALID, SESSION_API, _lasting(899)),
    _lasts("900", "durationSeconds is 900", "900 seconds", SESSION_API, _lasting(900)),
    _lasts("none", "the request has no durationSeconds", "3600 seconds", SESSION_API, _lasting(None)),
    _lasts(
        "over-profile",
        "durationSeconds is 43200, and that of the profile 3600",
        "3600 seconds",
        SESSION_API,
        _lasting(43200),
    ),
    _lasts("43201", "durationSeconds is 43201", INVALID, SESSION_API, _lasting(43201)),
    _lasts(
        "43200",
        "durationSeconds is 43200, as the profile and the role allow",
        "43200 seconds",
        SESSION_API,
        _lasting(43200, role="long"),
        *_LONG,
    ),
    _lasts(
        "of-profile",
        "the request has none, and the profile and the role have 43200",
        "43200 seconds",
        SESSION_API,
        _lasting(None, role="long"),
        *_LONG,
    ),
    _lasts(
        "over-role",
        "durationSeconds is 3601, which the profile allows and the role does not",
        _OVER_THE_ROLE,
        QUOTED,
        _lasting(3601, profile="long"),
        *_LONG,
    ),
    _lasts(
        "none-over-role",
        "the request has none, and that of the profile is more than the role allows",
        _OVER_THE_ROLE,
        choice("the profile's duration counts as if the request had it"),
        _lasting(None, profile="long"),
        *_LONG,
    ),
    _lasts(
        "fraction", "durationSeconds is 3600.5", INVALID, SESSION_API, _lasting(None, b'{"durationSeconds": 3600.5}')
    ),
    _lasts("null", "durationSeconds is null", INVALID, _FORM, _lasting(None, b'{"durationSeconds": null}')),
    _lasts("text", "durationSeconds is a string", INVALID, SESSION_API, _lasting(None, b'{"durationSeconds": "3600"}')),
)


QUESTIONS = (*_CLOCKS, *_DURATIONS)
