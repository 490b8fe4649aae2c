"""What is kept of a failure, whatever its class, and when the next attempt is allowed; how long a session lives."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner import errors
from hwsigner._aws.credentials import Credentials
from hwsigner._refresh.outcome import Failure, Session
from hwsigner._system.clocks import Clocks
from hwsigner.errors import (
    HwsignerError,
    HwsignerWarning,
    PinError,
    PinRequiredError,
    ServiceUnreachableError,
    WrongPinError,
)
from stage import FakeClock

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HwsignerError | HwsignerWarning)
]


def never(failures: int) -> float:
    raise AssertionError("the schedule was asked")


class MineError(PinRequiredError):
    """A caller's own class, with other parameters."""

    def __init__(self, user: str, *, place: int) -> None:
        super().__init__(f"no PIN for {user}", "Ask them")
        self.place = place


class MixedError(PinRequiredError, OSError):
    """A class of two layouts, which Python makes by OSError's rules only."""


class TestSession:
    @given(elapsed=st.floats(0, 7200), off=st.floats(-1e6, 1e6))
    def test_clock_that_leaves_less_time_counts(self, elapsed: float, off: float) -> None:
        clock = FakeClock()
        clocks = Clocks(clock.now, clock.monotonic)
        credentials = Credentials("AKIA", "secret", "token", clock.true() + timedelta(hours=1), "role", "assumed")
        session = Session.begin(credentials, clock.monotonic(), duration=3600, clocks=clocks)
        clock.elapsed, clock.off = elapsed, off
        assert session.left(clocks) == pytest.approx(3600 - elapsed - max(0, off), abs=1e-3)


class TestFailure:
    @given(number=st.integers(0, 5000), now=st.floats(0, 1e9))
    def test_failures_are_counted(self, number: int, now: float) -> None:
        last = Failure(HwsignerError("x"), number, 0) if number else None
        found = Failure.after(ServiceUnreachableError("x"), last, lambda failures: now + failures)
        assert (found.number, found.next_try) == (number + 1, now + (number + 1))
        assert not found.is_final

    @pytest.mark.parametrize(
        "error", [PinError("x"), WrongPinError("x"), MineError("ada", place=1), MixedError("x", "y")]
    )
    def test_pin_error_is_never_retried(self, error: Exception) -> None:
        failure = Failure.after(error, None, never)
        assert failure.next_try == math.inf
        assert failure.is_final

    @pytest.mark.parametrize("kind", CLASSES)
    def test_hwsigner_error_is_kept_as_it_is(self, kind: type[Any]) -> None:
        failure = Failure.after(kind("what", "hint"), None, float)
        for kept in (failure.error, failure.to_raise()):
            assert type(kept) is kind
            assert (str(kept), kept.message, kept.hint, kept.args) == ("what. hint", "what", "hint", ("what", "hint"))

    def test_attributes_of_an_error_are_kept(self) -> None:
        failure = Failure.after(ServiceUnreachableError("x", retryable=False), None, float)
        assert isinstance(failure.error, ServiceUnreachableError)
        assert not failure.error.retryable

    def test_caller_s_own_class_is_kept(self) -> None:
        failure = Failure.after(MineError("ada", place=7), None, never)
        for kept in (failure.error, failure.to_raise()):
            assert isinstance(kept, MineError)
            assert (str(kept), kept.place) == ("no PIN for ada. Ask them", 7)

    def test_class_that_can_t_be_copied_is_named(self) -> None:
        kept = Failure.after(MixedError("4711", "y"), None, never).error
        assert type(kept) is HwsignerError
        assert "MixedError" in kept.message
        assert "4711" not in str(kept)

    def test_traceback_and_causes_are_dropped(self) -> None:
        try:
            try:
                raise KeyError("4711")
            except KeyError as cause:
                raise WrongPinError("wrong") from cause
        except WrongPinError as error:
            failure = Failure.after(error, None, never)
        for kept in (failure.error, failure.to_raise()):
            assert kept.__traceback__ is None
            assert kept.__cause__ is None
            assert kept.__context__ is None
        assert failure.to_raise() is not failure.to_raise()
