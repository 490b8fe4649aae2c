"""Trials of tokens as processes, as users run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hwsigner.trial import TrialReport, Verdict
from trial.answers import broken

ROOT = Path(__file__).parents[2]
# What is not asked with --write of a token that had no objects before, cannot be pulled out and has no ML-DSA.
NOT_OF_EMPTY = {
    *(f"key.{name}" for name in ("names", "ids", "has-id", "always-authenticate", "sign", "public-key")),
    *(f"login.{name}" for name in ("certificates", "public-keys", "private-keys", "logout")),
    *(f"object.{name}" for name in ("unknown-attribute", "ec-point", "ec-params")),
    *("key.certificate-id", "search.label", "keygen.mldsa44", "sign.mldsa", "token.pulled"),
}


class TrialRun:
    """A trial of a module as a process. Its report is in a folder."""

    def __init__(self, module: str, folder: Path, *flags: str, pin: str | None, **more: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
        environment |= {} if pin is None else {"HWSIGNER_PIN": pin}
        command = [
            sys.executable,
            "-m",
            "hwsigner.trial",
            "token",
            module,
            "--output",
            str(folder),
        ]
        self.folder = folder
        self.process = subprocess.Popen(
            [*command, *flags],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""

    def finish(self) -> TrialRun:
        """Wait for the end. The output begins with the answers that differ."""
        self.output += self.process.communicate(timeout=120)[0]
        reports = [TrialReport.from_json(path.read_text()) for path in self.folder.glob("trial-token-*.json")]
        self.output = "\n".join([*(line for report in reports for line in broken(report)), self.output])
        return self

    def read_until(self, text: str) -> None:
        """Read the output as far as a line with a text."""
        assert self.process.stdout is not None
        while text not in (line := self.process.stdout.readline()):
            assert line, self.output
            self.output += line

    @property
    def status(self) -> int:
        return self.process.returncode

    @property
    def report(self) -> TrialReport:
        [path] = self.folder.glob("trial-token-*.json")
        return TrialReport.from_json(path.read_text())

    @property
    def answers(self) -> dict[str, str]:
        return {one.id: one.answer or f"not asked: {one.why}" for one in self.report.results}

    @property
    def not_asked(self) -> set[str]:
        return {one.id for one in self.report.results if one.verdict == Verdict.NOT_ASKED}

    @property
    def differing(self) -> dict[str, str]:
        return {one.id: one.answer for one in self.report.results if one.verdict == Verdict.DIFFERS}
