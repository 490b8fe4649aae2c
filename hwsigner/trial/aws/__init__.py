"""Try what hwsigner assumes of IAM Roles Anywhere, IAM and STS, in a sandbox account."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hwsigner.errors import HwsignerError

if TYPE_CHECKING:
    import hwsigner.trial.aws
    from hwsigner.trial.__main__ import TrialModule

    _: TrialModule = hwsigner.trial.aws

HELP = "what hwsigner assumes of IAM Roles Anywhere, IAM and STS, in a sandbox account"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""


def run(arguments: argparse.Namespace) -> int:
    """Run the trial."""
    raise HwsignerError("this trial has no questions yet")
