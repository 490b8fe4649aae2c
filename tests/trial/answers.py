"""What a failed test says of the answers in a report."""

from __future__ import annotations

from hwsigner.trial import TrialReport, Verdict


def broken(report: TrialReport) -> list[str]:
    """Return the ID of each question whose answer differs, with both answers."""
    return [
        f"{each.id}: expected {each.expected!r}, answered {each.answer!r}"
        for each in report.results
        if each.verdict == Verdict.DIFFERS
    ]
