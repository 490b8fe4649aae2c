"""`hwsigner aws principal-tags CERTIFICATE`: the tags that a session with this certificate has."""

from __future__ import annotations

import json

from hwsigner._cli.aws.arguments import CERTIFICATE, read_leaf, warn_of_untaggable
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import KEY, OUTPUT
from hwsigner._identity.session_tags import session_tags
from hwsigner.errors import printable

HELP = "show the session tags that a certificate gives"


def add_arguments(parser: Parser) -> None:
    """Add the certificate and the flags that find it."""
    parser.add_argument("certificate", metavar="CERTIFICATE", help=CERTIFICATE)
    parser.add_flags(OUTPUT, KEY)


def run(arguments: Arguments) -> int:
    """Print the tags, one per line or as a JSON object."""
    leaf = read_leaf(arguments.settings, arguments.certificate)
    tags = session_tags(leaf)
    if arguments.json:
        print(json.dumps(tags))
    else:
        for name, value in tags.items():
            print(f"aws:PrincipalTag/{printable(name)} = {printable(value)}")
    warn_of_untaggable(leaf)
    return 0
