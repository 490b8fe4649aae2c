"""`hwsigner credential-process`: print credentials as the AWS SDKs want them from a `credential_process`."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress

from hwsigner.cli import options
from hwsigner.cli.parser import Parser
from hwsigner.flags import IDENTITY, PROFILE, SESSION

HELP = "print credentials for the AWS SDKs"


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(IDENTITY, SESSION, PROFILE)


def run(arguments: argparse.Namespace) -> int:
    """Print the credentials of a running agent, or else create a session and print its.

    An agent is asked where a profile is named and nothing else. What the flags get wrong is found before a key is
    touched. With `agent = "auto"` in the profile, an agent is started when all is done.
    """
    name = _lone_profile(arguments)
    credentials = (name and _of_agent(name)) or _created(arguments)
    sys.stdout.write(credentials)
    sys.stdout.flush()
    if name and getattr(arguments, "agent", None) == "auto":
        from hwsigner.agent.start import start_agent

        with suppress(OSError):  # The credentials are printed, and the next use tries again.
            start_agent(os.environ)
    return 0


def _lone_profile(arguments: argparse.Namespace) -> str | None:
    """Return the profile that the command line names, if it holds nothing else."""
    names = {flag.name for flag, _ in arguments.given}
    return (arguments.profile or arguments.config_profile) if names <= {flag.name for flag in PROFILE} else None


def _of_agent(name: str) -> str | None:
    from hwsigner.agent.client import find_credentials

    found = find_credentials(name)
    return found.decode() if found else None


def _created(arguments: argparse.Namespace) -> str:
    from hwsigner.identity import open_identity
    from hwsigner.session import create_session

    service, request = options.service(arguments), options.session_request(arguments)
    with open_identity(options.identity_source(arguments)) as identity:
        return f"{create_session(identity, request, service).process_json()}\n"
