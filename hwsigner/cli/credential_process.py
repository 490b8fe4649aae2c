"""`hwsigner credential-process`: print credentials as the AWS SDKs want them from a `credential_process`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hwsigner.cli.parser import Parser
from hwsigner.config.flags import IDENTITY, PROFILE, SESSION

HELP = "print credentials for the AWS SDKs"


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(IDENTITY, SESSION, PROFILE)


def run_given(given: argparse.Namespace) -> int | None:
    """Print the credentials of a running agent, before config.toml is read: it may be for the agent's eyes alone.

    An agent is asked where a profile is named and nothing else.

    Returns:
        None where no agent gives any: `run` is to be called.
    """
    name = _lone_profile(vars(given))
    credentials = name and _of_agent(name)
    if not credentials:
        return None
    _print(credentials)
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Create a session and print its credentials; what the flags get wrong is found before a key is touched.

    With `agent = "auto"` in the profile, an agent is started when all is done.
    """
    _print(_created(arguments))
    given = {flag.attribute: value for flag, value in arguments.given}
    if _lone_profile(given) and getattr(arguments, "agent", None) == "auto":
        from hwsigner.agent.client import start_agent

        with suppress(OSError):  # The credentials are printed, and the next use tries again.
            start_agent(os.environ)
    return 0


def _print(credentials: str) -> None:
    sys.stdout.write(credentials)
    sys.stdout.flush()


def _lone_profile(given: Mapping[str, Any]) -> str | None:
    """Return the one profile that flags name, by attribute, if they say nothing else."""
    if not given.keys() <= {flag.attribute for flag in PROFILE}:
        return None
    names = set(filter(None, given.values()))
    return names.pop() if len(names) == 1 else None


def _of_agent(name: str) -> str | None:
    from hwsigner.agent.client import find_credentials

    found = find_credentials(name)
    return found.decode() if found else None


def _created(arguments: argparse.Namespace) -> str:
    from hwsigner.aws.create_session import create_session
    from hwsigner.cli import options
    from hwsigner.identity import open_identity

    service, request = options.service(arguments), options.session_request(arguments)
    with open_identity(options.identity_source(arguments)) as identity:
        return f"{create_session(identity, request, service).process_json()}\n"
