"""A stage whose Roles Anywhere profile lets sessions have names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.stage import Stage


@pytest.fixture
def pod_stage(stage: Stage) -> Iterator[Stage]:
    """A stage whose Roles Anywhere profile lets sessions have names, as `serve --pods` needs."""
    profile = stage.service.world.profiles[stage.service.profile_arn]
    profile.accept_role_session_name = True
    yield stage
    profile.accept_role_session_name = False
