"""`hwsigner delete`: delete a key and what belongs to it, once the user has agreed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hwsigner._cli.confirmation import confirm
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome
from hwsigner._config import settings
from hwsigner._config.flags import KEY, OUTPUT, switch
from hwsigner.errors import printable_lines
from hwsigner.key.management import delete_key

HELP = "delete a key and what belongs to it"


def add_arguments(parser: Parser) -> None:
    """Add the key URI and the flags."""
    parser.add_argument("key", metavar="KEY-URI", help="key URI of the key, which must name one key")
    parser.add_flags([switch("yes", "do not ask first; needed without a terminal")], OUTPUT, KEY)


def run(arguments: Arguments) -> int:
    """Ask on the terminal, delete the key, and print what is gone."""
    settings.check_no_profile(arguments.key, f"To end the profile and its key, run hwsigner retire {arguments.key}")
    uri = settings.argument_uri(arguments.settings, arguments.key)
    pins = settings.pin_source(arguments.settings, uri)
    gone = delete_key(uri, (lambda _: None) if arguments.yes else _ask, pins, allow_modules=True)
    lines = printable_lines(f"deleted {line}" for line in gone)
    text = json.dumps({"deleted": list(gone)}, indent=2) if arguments.json else lines
    print_outcome(f"{gone[0]} was deleted", text)
    return 0


def _ask(doomed: Sequence[str]) -> None:
    lines = ["This would be deleted for good:", *(f"  {line}" for line in doomed)]
    confirm(lines, "Type yes to delete it", nothing="nothing was deleted")
