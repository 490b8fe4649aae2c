"""What is kept of a failure, whatever its class is, and the pause after it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner import errors
from hwsigner.errors import (
    HwsignerError,
    HwsignerWarning,
    PinError,
    PinRequiredError,
    ServiceUnreachableError,
    WrongPinError,
)
from hwsigner.refresh.outcome import Setback

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HwsignerError | HwsignerWarning)
]


def never(failures: int) -> float:
    raise AssertionError("the schedule was asked")


class MineError(PinRequiredError):
    """A caller's own, whose parameters are others."""

    def __init__(self, user: str, *, place: int) -> None:
        super().__init__(f"no PIN for {user}", "Ask them")
        self.place = place


class MixedError(PinRequiredError, OSError):
    """Of two layouts: Python makes it by OSError's rules alone."""


class TestAfter:
    @given(number=st.integers(0, 5000), now=st.floats(0, 1e9))
    def test_the_failures_are_counted(self, number: int, now: float) -> None:
        last = Setback(HwsignerError("x"), number, 0) if number else None
        found = Setback.after(ServiceUnreachableError("x"), last, lambda failures: now + failures)
        assert (found.number, found.next_try) == (number + 1, now + (number + 1))
        assert not found.is_final

    @pytest.mark.parametrize(
        "error", [PinError("x"), WrongPinError("x"), MineError("ada", place=1), MixedError("x", "y")]
    )
    def test_a_pin_is_never_tried_again(self, error: Exception) -> None:
        setback = Setback.after(error, None, never)
        assert setback.next_try == math.inf
        assert setback.is_final

    @pytest.mark.parametrize("kind", CLASSES)
    def test_an_error_of_ours_is_kept_as_it_is(self, kind: type[Any]) -> None:
        setback = Setback.after(kind("what", "hint"), None, float)
        for kept in (setback.error, setback.to_raise()):
            assert type(kept) is kind
            assert (str(kept), kept.message, kept.hint, kept.args) == ("what. hint", "what", "hint", ("what", "hint"))

    def test_what_an_error_bears_is_kept(self) -> None:
        setback = Setback.after(ServiceUnreachableError("x", retryable=False), None, float)
        assert isinstance(setback.error, ServiceUnreachableError)
        assert not setback.error.retryable

    def test_a_class_of_the_caller_s_is_kept(self) -> None:
        setback = Setback.after(MineError("ada", place=7), None, never)
        for kept in (setback.error, setback.to_raise()):
            assert isinstance(kept, MineError)
            assert (str(kept), kept.place) == ("no PIN for ada. Ask them", 7)

    def test_a_class_that_can_t_be_made_is_named(self) -> None:
        kept = Setback.after(MixedError("4711", "y"), None, never).error
        assert type(kept) is HwsignerError
        assert "MixedError" in kept.message
        assert "4711" not in str(kept)

    def test_the_traceback_and_the_chain_are_not_kept(self) -> None:
        try:
            try:
                raise KeyError("4711")
            except KeyError as cause:
                raise WrongPinError("wrong") from cause
        except WrongPinError as error:
            setback = Setback.after(error, None, never)
        for kept in (setback.error, setback.to_raise()):
            assert kept.__traceback__ is None
            assert kept.__cause__ is None
            assert kept.__context__ is None
        assert setback.to_raise() is not setback.to_raise()
