"""How many examples the property tests draw."""

from __future__ import annotations

from hypothesis import settings


def scaled(number: int) -> int:
    """Return how many examples to draw under the current profile, if they are `number` under one that draws 100."""
    assert settings.default
    return max(1, number * settings.default.max_examples // 100)
