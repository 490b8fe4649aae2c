"""Try a PKCS #11 module and its tokens."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hwsigner.errors import HwsignerError

if TYPE_CHECKING:
    import hwsigner.trial.token
    from hwsigner.trial.__main__ import TrialModule

    _: TrialModule = hwsigner.trial.token

HELP = "a PKCS #11 module and its tokens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""


def run(arguments: argparse.Namespace) -> int:
    """Run the trial."""
    raise HwsignerError("this trial has no questions yet")
