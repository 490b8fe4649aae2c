"""`hwsigner credential-process`: print credentials as the AWS SDKs want them from a `credential_process`."""

from __future__ import annotations

import argparse

from hwsigner.cli import options
from hwsigner.cli.parser import Parser
from hwsigner.flags import IDENTITY, PROFILE, SESSION

HELP = "print credentials for the AWS SDKs"


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(IDENTITY, SESSION, PROFILE)


def run(arguments: argparse.Namespace) -> int:
    """Create a session and print its credentials; what the flags get wrong is found before a key is touched."""
    from hwsigner.identity import open_identity
    from hwsigner.session import create_session

    service, request = options.service(arguments), options.session_request(arguments)
    with open_identity(options.identity_source(arguments)) as identity:
        credentials = create_session(identity, request, service)
    print(credentials.process_json())
    return 0
