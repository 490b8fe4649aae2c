"""`python -m trial_aws`, with `tests` in PYTHONPATH: what `make trial-aws` runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hwsigner.trial.asking import status_of
from trial_aws import HELP, add_arguments, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trial and return the exit status. Only an answer that differs makes it 1."""
    parser = argparse.ArgumentParser(prog="python -m trial_aws", description=HELP, allow_abbrev=False)
    add_arguments(parser)
    given = parser.parse_args(arguments)
    return status_of(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())
