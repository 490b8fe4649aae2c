"""`hwsigner registrar rotate-keys`: a new sealing key; the last one stays valid, and older ones are removed."""

from __future__ import annotations

import json

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome
from hwsigner._cli.registrar import KEYS
from hwsigner._config.flags import OUTPUT
from hwsigner.enrolment.registrar.sealing import rotate_keys

HELP = "make a new sealing key, and keep the last one too"


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags((KEYS,), OUTPUT)


def run(arguments: Arguments) -> int:
    """Rotate the keys and print the IDs of those that are valid now, the newest first."""
    keys = rotate_keys(arguments.keys).keys
    identifiers = [identifier.hex() for identifier, _ in keys]
    text = f"valid sealing keys in {arguments.keys}: {' '.join(identifiers)}"
    if arguments.json:
        text = json.dumps({"file": arguments.keys, "keys": identifiers}, indent=2)
    print_outcome("the keys were changed", text)
    return 0
