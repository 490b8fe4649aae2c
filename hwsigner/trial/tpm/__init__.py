"""Try a TPM that is in use, without changing it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hwsigner.errors import HwsignerError

if TYPE_CHECKING:
    import hwsigner.trial.tpm
    from hwsigner.trial.__main__ import TrialModule

    _: TrialModule = hwsigner.trial.tpm

HELP = "a TPM that is in use, without changing it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""


def run(arguments: argparse.Namespace) -> int:
    """Run the trial."""
    raise HwsignerError("this trial has no questions yet")
