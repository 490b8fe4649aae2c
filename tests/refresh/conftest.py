"""The stage that sessions are created on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import certs
from stage import Stage, make_stage


@pytest.fixture
def stage(ca: certs.Authority, tmp_path: Path) -> Iterator[Stage]:
    with make_stage(ca, tmp_path) as stage:
        yield stage
