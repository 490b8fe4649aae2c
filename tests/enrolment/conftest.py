"""A certificate request, and a CA that answers it as asked or with a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrolment.authority import Requested, requested


@pytest.fixture
def asked(tmp_path: Path) -> Requested:
    """A request for CN=bamboo-01,OU=devops with a DNS name and a URI."""
    return requested(tmp_path)
