"""The table of docs/reference/clients.md, from the reports of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from clients.outputs import OUTPUTS
from clients.programs import CLIENTS


def table(reports: Iterable[pytest.TestReport]) -> Iterator[str]:
    """Yield the lines of a Markdown table: each client with each output, and the result."""
    versions, outcomes = dict[str, str](), dict[tuple[str, str], str]()
    for report in reports:
        found = dict(report.user_properties)
        if "client" in found:
            client = str(found["client"])
            versions[client] = str(found["version"])
            outcomes[client, str(found["output"])] = report.outcome
    if versions:
        yield _row("client", "version", OUTPUTS)
        yield "|---" * (len(OUTPUTS) + 2) + "|"
    for client in CLIENTS:
        if client in versions:
            yield _row(client, versions[client], [outcomes.get((client, output), "not run") for output in OUTPUTS])


def _row(client: str, version: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([client, version, *cells])} |"
