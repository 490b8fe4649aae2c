"""`hwsigner credential-process`: print credentials in the form that the AWS SDKs expect of a `credential_process`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import asker
from hwsigner._config.flags import IDENTITY, PROFILE, SESSION
from hwsigner.errors import HwsignerError

HELP = "print credentials for the AWS SDKs"


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(IDENTITY, SESSION, PROFILE)
    parser.run_before_profile, parser.run_without_profile = _run_before_profile, _run_without_profile


def _run_before_profile(given: Arguments) -> bool:
    """Print a running agent's credentials, if the flags only name a profile, and return whether it had any.

    This comes before config.toml is read, as perhaps only the agent can read it.
    """
    name = _only_profile(vars(given))
    if name is None:
        return False
    from hwsigner._agent.client import find_credentials

    # `asker` loads modules.
    return _print_found(find_credentials(name, ask_pin=lambda request: asker(_pinentry(name))(request)))


def _run_without_profile(given: Arguments) -> bool:
    """Print the credentials of the system's agent, which may be starting: this user can't read such a profile."""
    name = _only_profile(vars(given))
    if name is None:
        return False
    from hwsigner._agent.client import wait_for_system_agent

    return _print_found(wait_for_system_agent(name))


def run(arguments: Arguments) -> int:
    """Create a session and print its credentials. With `agent = "auto"` in the profile, then hand it to an agent."""
    from hwsigner._aws.create_session import create_session
    from hwsigner._cli.monitoring import audit_of_sessions
    from hwsigner._cli.process import report_shorter_session
    from hwsigner._config import settings
    from hwsigner._identity import open_identity

    service, request = settings.service(arguments.settings), settings.session_request(arguments.settings)
    audit = audit_of_sessions()
    with open_identity(settings.identity_source(arguments.settings)) as identity:
        credentials = create_session(identity, request, service)
        if audit:
            audit.give_self(arguments.profile or arguments.config_profile or "", credentials)
    _print(f"{credentials.process_json()}\n")
    report_shorter_session(credentials, arguments.settings)
    given = {flag.attribute: value for flag, value in arguments.given}
    name = _only_profile(given)
    if name and arguments.found and arguments.settings.agent == "auto":
        from hwsigner._agent.relay import hand_over

        with suppress(OSError, HwsignerError):  # The credentials are printed; the next use retries.
            hand_over(name, arguments.found.digest, credentials, os.environ)
    return 0


def _pinentry(name: str) -> str | None:
    """Return the pinentry that a profile names, if this user can read it."""
    from hwsigner._config.profiles import profile

    try:
        found = profile(name, os.environ).values.get("pinentry")
    except HwsignerError:
        return None
    return found if isinstance(found, str) else None


def _print_found(credentials: bytes | None) -> bool:
    if credentials:
        _print(credentials.decode())
    return bool(credentials)


def _print(credentials: str) -> None:
    sys.stdout.write(credentials)
    sys.stdout.flush()


def _only_profile(given: Mapping[str, Any]) -> str | None:
    """Return the profile that the flags name, given by attribute, if there are no other flags."""
    if not given.keys() <= {flag.attribute for flag in PROFILE}:
        return None
    names = set(filter(None, given.values()))
    return names.pop() if len(names) == 1 else None
