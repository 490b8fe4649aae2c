"""`python -m hwsigner.trial`: try what hwsigner assumes of a TPM or a token, and write a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

from hwsigner.trial import token, tpm
from hwsigner.trial.asking import status_of


class TrialModule(Protocol):
    """The module of a trial."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments and flags."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the trial and return the exit status: 1 if an answer differs, 2 if nothing was asked."""
        ...


_TRIALS: dict[str, TrialModule] = {"tpm": tpm, "token": token}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a trial and return the exit status. Only an answer that differs makes it 1."""
    parser = argparse.ArgumentParser(prog="python -m hwsigner.trial", description=__doc__, allow_abbrev=False)
    trials = parser.add_subparsers(dest="trial", required=True, metavar="TRIAL")
    for name, module in _TRIALS.items():
        module.add_arguments(trials.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False))
    given = parser.parse_args(arguments)
    return status_of(lambda: _TRIALS[given.trial].run(given))


if __name__ == "__main__":
    sys.exit(main())
