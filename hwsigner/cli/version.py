"""`hwsigner version`: the bare version."""

from __future__ import annotations

import argparse

from hwsigner._version import __version__
from hwsigner.cli.parser import Parser

HELP = "print the version"


def add_arguments(parser: Parser) -> None:
    """Add nothing: the command has no flags."""


def run(arguments: argparse.Namespace) -> int:
    """Print the version."""
    print(__version__)
    return 0
