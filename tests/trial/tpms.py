"""A trial of a swtpm in a process of its own, and what tpm2-tools see of the TPM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hwsigner.trial import TrialReport
from softhsm.command import run
from softhsm.tpm import SoftTPM
from tpm_proxy import Fault, TPMProxy
from trial.answers import broken

# What tpm2-tools list: handles, properties and the values of PCRs.
_LISTED = (
    *("handles-persistent", "handles-transient", "handles-loaded-session", "handles-saved-session"),
    *("handles-nv-index", "properties-fixed", "properties-variable", "pcrs"),
)


def seen(tpm: SoftTPM) -> dict[str, str]:
    """Return all that a trial must not change, as tpm2-tools show it."""
    found = {what: run(["tpm2_getcap", what], tpm.env).decode() for what in _LISTED}
    found["values"] = run(["tpm2_pcrread"], tpm.env).decode()
    found["indices"] = run(["tpm2_nvreadpublic"], tpm.env).decode()
    clock = run(["tpm2_readclock"], tpm.env).decode().splitlines()
    found["resets"] = "".join(line for line in clock if "count" in line)
    return found


class Trials:
    """Trials of one TPM, in processes.

    Args:
        tpm: the TPM.
        folder: where the reports go.
    """

    def __init__(self, tpm: SoftTPM, folder: Path) -> None:
        self.tpm = tpm
        self.folder = folder

    def start(self, *flags: str, tcti: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start a trial."""
        command = [sys.executable, "-m", "hwsigner.trial", "tpm", "--tcti", tcti or self.tpm.tcti]
        command += ["--output", str(self.folder), *flags]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        env = {**os.environ, **environment}
        return subprocess.Popen(command, env=env, text=True, stdin=nothing, stdout=pipe, stderr=pipe)

    def run(self, *flags: str, tcti: str = "", **environment: str) -> tuple[int, str]:
        """Run a trial; return its exit status, and all that it printed after the answers of its report that differ."""
        reports = self._reports()
        process = self.start("--yes", *flags, tcti=tcti, **environment)
        output, errors = process.communicate()
        differing = broken(self.report()) if self._reports() != reports else []
        return process.returncode, "\n".join([*differing, output + errors])

    def report(self) -> TrialReport:
        """Return the last report."""
        newest = max(self._reports(), key=lambda path: path.stat().st_mtime_ns)
        return TrialReport.from_json(newest.read_text())

    def _reports(self) -> set[Path]:
        return {*self.folder.glob("trial-tpm-*.json")}

    def why(self) -> dict[str, str]:
        """Return why the last trial did not ask questions, by their IDs."""
        return {each.id: each.why for each in self.report().results if each.why}

    def differing(self) -> dict[str, str]:
        """Return what differs in the last report."""
        return {each.id: each.answer for each in self.report().results if each.verdict == "differs"}


class OtherTPM(TPMProxy):
    """A TPM whose answers are changed.

    Attributes:
        change: takes a command and its answer, and returns what to answer.
    """

    change: Callable[[bytes, bytes], bytes] = staticmethod(lambda command, answer: answer)

    def _forward(self, command: bytes) -> bytes:
        return self.change(command, super()._forward(command))


def killed_at(
    process: Callable[[], subprocess.Popen[str]], number: int, with_signal: signal.Signals = signal.SIGKILL
) -> Callable[[bytes], Fault]:
    """Return what a proxy does to send a process a signal with its command of a number, which the TPM executes."""
    left = number

    def decide(_: bytes) -> Fault:
        nonlocal left
        left -= 1
        if left == -1:
            process().send_signal(with_signal)
            return "drop" if with_signal == signal.SIGKILL else "pass"
        return "pass"

    return decide
