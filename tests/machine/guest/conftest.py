"""What the tests in the machine show of a failure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from machine.guest.commands import run


@pytest.fixture(autouse=True)
def _show_journal(request: pytest.FixtureRequest) -> Iterator[None]:
    """Show the end of the journal after a failure."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(run("journalctl", "--no-pager", "-n", "40", "-o", "cat").stdout)
