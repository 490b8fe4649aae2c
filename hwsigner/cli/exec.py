"""`hwsigner exec NAME -- COMMAND …`: run a program that finds a profile's credentials where the AWS SDKs look."""

from __future__ import annotations

import argparse
import gc
import os
import threading
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwsigner.aws.default_profile import find_default_credentials
from hwsigner.cli.log import Log
from hwsigner.cli.parser import Parser
from hwsigner.config.flags import switch
from hwsigner.errors import HwsignerWarning, UsageError

if TYPE_CHECKING:
    from hwsigner.cli.sources import Sourced
    from hwsigner.serving.server import Server

HELP = "run a command with a profile's credentials"

_HOP_LIMIT = 64
# What the SDKs would take before the container endpoint, or for another one.
_REMOVED = (
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_DEFAULT_PROFILE",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


def add_arguments(parser: Parser) -> None:
    """Add the profile's name and the command."""
    parser.usage = "hwsigner exec [--strict] NAME -- COMMAND [ARGUMENT …]"
    parser.hint = "Write hwsigner exec NAME -- COMMAND, with the profile's name alone"
    parser.add_argument("name", metavar="NAME", help="the profile of config.toml")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="what to run")
    parser.add_flags([switch("strict", "make every warning an error")])


def run(arguments: argparse.Namespace) -> int:
    """Get a session, and run the command beside an endpoint that gives and renews its credentials.

    Returns:
        The command's exit status.

    Raises:
        HwsignerError: there is no session; the command has not been run.
    """
    from hwsigner.cli.child import run_program
    from hwsigner.cli.process import forbid_dumps, report_thread_failures
    from hwsigner.cli.server_run import close_in_time
    from hwsigner.cli.sources import of_profile
    from hwsigner.pins.terminal import release_terminal
    from hwsigner.serving.credentials import CONTAINER

    gc.enable()  # Unlike other commands, this one stays.
    if not arguments.command:
        raise UsageError("no command is given", "Write hwsigner exec NAME -- COMMAND")
    forbid_dumps()
    _warn_of_default_profile()
    sourced = of_profile(arguments.name, _ignore)
    server, variables = _endpoint(sourced)
    # In this thread, where Ctrl-C ends it, and before the command is run: without credentials it is not.
    sourced.source.reply(CONTAINER)
    release_terminal()
    report_thread_failures()
    serving = threading.Thread(target=server.run, name="hwsigner-server", daemon=True)

    def start() -> None:
        sourced.own.start()
        serving.start()

    status = run_program(arguments.command, child_environment(os.environ, variables), start)
    server.stop()
    # The server too: the interpreter must not end under an event loop.
    if not close_in_time([sourced.own.close, serving.join]):
        os._exit(status)
    return status


def _endpoint(sourced: Sourced) -> tuple[Server, dict[str, str]]:
    """Return a server on a free port, and the variables that lead to it."""
    from hwsigner.serving.application import Application, Served
    from hwsigner.serving.container import container_path
    from hwsigner.serving.listener import listen, names_of
    from hwsigner.serving.server import Server
    from hwsigner.serving.token_file import new_token

    token, log = new_token(), Log().refused
    listener = listen("127.0.0.1", 0, _HOP_LIMIT)
    served = Served(sourced.name, token, sourced.source)
    application = Application([served], names=names_of(listener, []), log=log)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}{container_path(sourced.name)}"
    return Server(application.answer, [listener], log=log), {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": token.decode(),
    }


def child_environment(environ: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return a command's environment: with the endpoint's variables, and without those that SDKs look at before."""
    return {**{name: value for name, value in environ.items() if name not in _REMOVED}, **variables}


def _warn_of_default_profile() -> None:
    found = find_default_credentials(os.environ)
    if found:
        problem = f"the command's SDK may take the credentials of {found} before those of hwsigner"
        warnings.warn(HwsignerWarning(problem, "Give that profile another name than default"), stacklevel=1)


def _ignore(text: str) -> None:
    """Let no line come between those of the command: where there are no credentials, its SDK is told why."""
