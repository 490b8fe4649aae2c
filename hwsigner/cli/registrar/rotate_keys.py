"""`hwsigner registrar rotate-keys`: a new sealing key; the last one stays valid, and older ones are removed."""

from __future__ import annotations

import argparse

from hwsigner.cli.parser import Parser
from hwsigner.cli.process import print_outcome
from hwsigner.cli.registrar import KEYS
from hwsigner.enrolment.registrar.sealing import rotate_keys

HELP = "make a new sealing key, and keep the last one too"


def add_arguments(parser: Parser) -> None:
    """Add the flag."""
    parser.add_flags((KEYS,))


def run(arguments: argparse.Namespace) -> int:
    """Rotate the keys and print the IDs of those that are valid now, the newest first."""
    keys = rotate_keys(arguments.keys).keys
    identifiers = " ".join(identifier.hex() for identifier, _ in keys)
    print_outcome("the keys were changed", f"valid sealing keys in {arguments.keys}: {identifiers}")
    return 0
