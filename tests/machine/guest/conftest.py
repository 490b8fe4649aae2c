"""What the tests in the machine show of a failure: the end of the journal."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from machine.guest.commands import run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("journal", run("journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic").stdout))
    return report
