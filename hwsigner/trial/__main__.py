"""`python -m hwsigner.trial`: try what hwsigner assumes of AWS, a TPM or a token, and write a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from hwsigner.errors import HwsignerError, Interruption, UsageError

_TRIALS = {"aws": "hwsigner.trial.aws", "tpm": "hwsigner.trial.tpm", "token": "hwsigner.trial.token"}


class TrialModule(Protocol):
    """The module of a trial.

    Attributes:
        HELP: what it tries, in a few words.
    """

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments and flags."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the trial and return the exit status: 1 if an answer differs, 2 if nothing was asked.

        Raises:
            HwsignerError: it can't be run.
        """
        ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a trial and return the exit status. Only an answer that differs makes it 1."""
    parser = argparse.ArgumentParser(prog="python -m hwsigner.trial", description=__doc__, allow_abbrev=False)
    trials = parser.add_subparsers(dest="trial", required=True, metavar="TRIAL")
    modules: dict[str, TrialModule] = {name: import_module(module) for name, module in _TRIALS.items()}
    for name, module in modules.items():
        module.add_arguments(trials.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False))
    given = parser.parse_args(arguments)
    try:
        return modules[given.trial].run(given)
    except HwsignerError as error:
        print(f"hwsigner: {error}", file=sys.stderr)
        return max(error.exit_status, UsageError.exit_status)
    except KeyboardInterrupt:
        print("hwsigner: interrupted", file=sys.stderr)
        return Interruption.exit_status


if __name__ == "__main__":
    sys.exit(main())
