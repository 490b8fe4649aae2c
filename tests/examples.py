"""How often tests repeat what they do: less often in `make check`."""

from __future__ import annotations

from hypothesis import settings


def scaled(number: int) -> int:
    """Return the number under the usual hypothesis profile, and a part of it under one that draws fewer examples."""
    assert settings.default
    return max(1, number * settings.default.max_examples // 100)
