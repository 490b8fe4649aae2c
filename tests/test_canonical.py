"""Which implementation of the canonical forms is in use."""

from __future__ import annotations

import inspect

from hwsigner import _reference, canonical


def test_the_reference_is_in_use_and_says_so() -> None:
    assert canonical.IMPLEMENTATION == "python"


def test_each_public_function_of_the_reference_is_there() -> None:
    functions = {
        name: value
        for name, value in vars(_reference).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert {name: getattr(canonical, name) for name in functions} == functions
    assert sorted(canonical.__all__) == sorted([*functions, "IMPLEMENTATION"])
