"""`hwsigner aws principal-tags CERTIFICATE`: the tags that a session with this certificate has."""

from __future__ import annotations

import argparse
import json
import warnings

from hwsigner.cli.aws.certificates import CERTIFICATE, read_leaf
from hwsigner.cli.parser import Parser
from hwsigner.config.flags import KEY
from hwsigner.errors import HwsignerWarning, printable
from hwsigner.identity.session_tags import session_tags, untaggable

HELP = "show the principal tags that a certificate gives its sessions"


def add_arguments(parser: Parser) -> None:
    """Add the certificate and the flags that find it."""
    parser.add_argument("certificate", metavar="CERTIFICATE", help=CERTIFICATE)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_flags(KEY)


def run(arguments: argparse.Namespace) -> int:
    """Print the tags, one per line or as a JSON object."""
    leaf = read_leaf(arguments, arguments.certificate)
    tags = session_tags(leaf)
    if arguments.json:
        print(json.dumps(tags))
    else:
        for name, value in tags.items():
            print(f"aws:PrincipalTag/{printable(name)} = {printable(value)}")
    for problem in untaggable(leaf):
        hint = "Reissue it without that name, or leave the name out of the profile's attribute mappings"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=1)
    return 0
